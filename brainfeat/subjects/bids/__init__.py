"""BIDS folders: their index, filters and entities."""

__all__: list[str] = []


def __dir__() -> list[str]:
    return sorted(__all__)
