"""Subjects, and where they come from: lists, manifests, BIDS folders."""

__all__: list[str] = []


def __dir__() -> list[str]:
    return sorted(__all__)
