"""BIDS folders: their index, filters and entities."""

__all__: list[str] = []
