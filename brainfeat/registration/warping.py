"""Images and label maps resampled at the points of another grid."""

__all__ = ["interpolate", "sample_field", "vote"]

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]

_ROUNDING = 1e-4  # voxels
_CORNERS = tuple(product((0, 1), repeat=3))


def interpolate(data: NDArray[Any], points: Floats) -> NDArray[np.float32]:
    """Sample intensities at voxel indices (3, n), linearly; 0 outside."""
    values = ndimage.map_coordinates(
        data.astype(np.float32, copy=False),
        _snap(points, data.shape),
        np.float32,
        order=1,
        mode="constant",
        cval=0.0,
        prefilter=False,
    )
    return np.asarray(values)


def sample_field(field: NDArray[np.float32], points: Floats) -> Floats:
    """Sample displacements (I, J, K, 3) at voxel indices (3, n): (3, n).

    They fade to zero over a voxel at the border, as continuous maps must.
    """
    padded = np.pad(field, ((1, 1), (1, 1), (1, 1), (0, 0)))
    return np.stack([interpolate(padded[..., axis], points + 1.0) for axis in range(3)])


def vote(labels: NDArray[Any], points: Floats) -> NDArray[Any]:
    """Return the label of the largest weight at voxel indices (3, n); 0 outside.

    The weights are those of linear interpolation, as if the mask of each label were
    interpolated, but for a time that does not depend on the number of labels.
    """
    points = _snap(points, labels.shape)
    first = np.floor(points)
    part = points - first
    first = first.astype(np.intp)
    weights = np.empty((8, points.shape[1]), np.float32)
    found = np.zeros((8, points.shape[1]), labels.dtype)
    size = np.array(labels.shape)[:, None]
    for number, corner in enumerate(_CORNERS):
        step = np.array(corner)[:, None]
        index = first + step
        inside = ((index >= 0) & (index < size)).all(axis=0)
        found[number, inside] = labels[tuple(index[:, inside])]
        weights[number] = np.where(step, part, 1.0 - part).prod(axis=0)
    votes = np.zeros_like(weights)
    for number in range(8):
        votes[number] = (weights * (found == found[number])).sum(axis=0)
    best = votes.argmax(axis=0)
    chosen: NDArray[Any] = np.take_along_axis(found, best[None], axis=0)[0]
    return chosen


def _snap(points: Floats, shape: tuple[int, ...]) -> Floats:
    """Move points that are outside by rounding onto the edge."""
    last = np.array(shape, np.float64)[:, None] - 1.0
    nearest = np.clip(points, 0.0, last)
    return np.where(np.abs(points - nearest) < _ROUNDING, nearest, points)
