"""Self-supervised pretraining: views, objectives and the loop."""

__all__: list[str] = []


def __dir__() -> list[str]:
    return sorted(__all__)
