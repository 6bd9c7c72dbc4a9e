"""The encoder and its parts, as torch modules."""

__all__: list[str] = []


def __dir__() -> list[str]:
    return sorted(__all__)
