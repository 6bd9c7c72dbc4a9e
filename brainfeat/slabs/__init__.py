"""Slabs of neighbouring slices: how a grid is cut, and augmented crops."""

__all__: list[str] = []
