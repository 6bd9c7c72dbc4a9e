"""From subjects to embeddings: the estimator and its stream."""

__all__: list[str] = []
