"""From subjects to embeddings: the estimator and its stream."""

__all__: list[str] = []


def __dir__() -> list[str]:
    return sorted(__all__)
