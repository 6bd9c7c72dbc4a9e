"""Blocks of two voxels along each axis, whose eight voxels are a last axis."""

__all__ = ["from_blocks", "to_blocks"]

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def to_blocks(data: Floats) -> Floats:
    """Collect the voxels (2 I, 2 J, 2 K) of each block: (I, J, K, 8)."""
    i, j, k = (size // 2 for size in data.shape)
    blocks = data.reshape(i, 2, j, 2, k, 2).transpose(0, 2, 4, 1, 3, 5)
    return np.ascontiguousarray(blocks).reshape(i, j, k, 8)


def from_blocks(data: Floats) -> Floats:
    """Return the voxels of blocks, as `to_blocks` takes them."""
    i, j, k, _ = data.shape
    voxels = data.reshape(i, j, k, 2, 2, 2).transpose(0, 3, 1, 4, 2, 5)
    return np.ascontiguousarray(voxels).reshape(2 * i, 2 * j, 2 * k)
