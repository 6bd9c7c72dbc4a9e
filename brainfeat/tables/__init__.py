"""Tables of embeddings: formats, runs, merging, derivatives."""

__all__: list[str] = []
