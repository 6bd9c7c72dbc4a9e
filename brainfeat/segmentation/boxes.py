"""Boxes of voxel grids."""

__all__ = ["Box", "crop_geometry", "find_box", "whole_box"]

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from brainfeat.volume import Geometry

Box: TypeAlias = tuple[slice, ...]  # one an axis, with start and stop


def whole_box(shape: Sequence[int]) -> Box:
    """Return the box of a whole grid."""
    return tuple(slice(0, size) for size in shape)


def crop_geometry(geometry: Geometry, box: Box) -> Geometry:
    """Return a box of a grid as a grid."""
    first = np.array([part.start for part in box])
    affine = geometry.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ first
    i, j, k = (part.stop - part.start for part in box)
    return Geometry((i, j, k), affine)


def find_box(inside: NDArray[np.bool_], margin: int = 0) -> Box | None:
    """Return the box of what is true, with a margin; None if nothing is."""
    box = []
    for axis, size in enumerate(inside.shape):
        others = tuple(other for other in range(inside.ndim) if other != axis)
        filled = np.flatnonzero(inside.any(axis=others))
        if not len(filled):
            return None
        low, high = int(filled[0]) - margin, int(filled[-1]) + 1 + margin
        box.append(slice(max(low, 0), min(high, size)))
    return tuple(box)
