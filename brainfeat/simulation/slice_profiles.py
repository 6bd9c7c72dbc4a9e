"""Thick slices and large voxels: a weighted mean along one axis of a volume."""

__all__ = ["profile_weights", "resample_axis"]

from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainfeat.volume import Geometry, Volume


def resample_axis(
    volume: Volume,
    axis: int,
    *,
    distance: float,
    width: float = 0.0,
    softness: float = 0.0,
) -> Volume:
    """Sample a volume every `distance` mm along one of its axes.

    Each sample averages over `width` mm, which is less than `distance` if there are
    gaps; the edges of its profile are `softness` of the width wide. Below the spacing
    of the volume, samples are interpolated linearly.
    """
    grid = volume.geometry
    spacing, size = grid.spacing[axis], grid.shape[axis]
    n = max(1, int(size * spacing / distance + 1e-3))
    # Both grids have the same centre.
    centers = (np.arange(n) - (n - 1) / 2) * distance / spacing + (size - 1) / 2
    weights = profile_weights(centers, size, width / spacing, softness)
    moved = np.moveaxis(volume.data, axis, -1).astype(np.float32, copy=False)
    data = np.moveaxis(moved @ weights.T, -1, axis)
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, axis] * centers[0]
    affine[:3, axis] *= distance / spacing
    return Volume(data, Geometry(data.shape, affine), volume.path)


def profile_weights(
    centers: NDArray[Any], size: int, width: float, softness: float
) -> NDArray[np.float32]:
    """Return weights (N, size) of samples at `centers`; lengths are in voxels.

    A profile is flat, with linear edges at least a voxel wide.
    """
    width = max(width, 1.0)
    edge = max(softness * width, 1.0)
    apart = np.abs(centers.clip(0, size - 1)[:, None] - np.arange(size))
    weights = (((width + edge) / 2 - apart) / edge).clip(0, 1)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)
