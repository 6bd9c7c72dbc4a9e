"""Adapt an encoder to a label: classes or numbers."""

__all__: list[str] = []


def __dir__() -> list[str]:
    return sorted(__all__)
