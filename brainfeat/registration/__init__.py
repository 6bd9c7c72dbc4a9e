"""Transforms between scans, and the fields of displacements that they hold."""

__all__: list[str] = []


def __dir__() -> list[str]:
    return sorted(__all__)
