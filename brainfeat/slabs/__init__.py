"""Slabs of neighbouring slices: how a grid is cut, and augmented crops."""

from brainfeat.slabs.grid import SlabGrid

__all__ = ["SlabGrid"]


def __dir__() -> list[str]:
    return sorted(__all__)
