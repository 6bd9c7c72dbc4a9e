"""Label maps from a few labelled scans."""

__all__: list[str] = []


def __dir__() -> list[str]:
    return sorted(__all__)
