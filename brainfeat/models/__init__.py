"""The encoder and its parts, as torch modules."""

__all__: list[str] = []
