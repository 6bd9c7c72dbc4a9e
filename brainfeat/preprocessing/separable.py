"""Sample a volume on a grid that is parallel to it, one axis after the other.

This takes a third of the time of SimpleITK's filter, which takes any affine.
"""

__all__ = ["is_parallel", "sample_parallel"]

import numpy as np
from numpy.typing import NDArray

Affine = NDArray[np.float64]
Floats = NDArray[np.float32]
Taps = tuple[NDArray[np.intp], NDArray[np.float32]]

_TOLERANCE = 1e-4  # voxels


def is_parallel(to_voxel: Affine, shape: tuple[int, ...]) -> bool:
    """Return whether the axes of a grid are those of the volume, none flipped."""
    scales = np.diag(to_voxel[:3, :3])
    across = np.abs(to_voxel[:3, :3] - np.diag(scales)) @ np.array(shape)
    return bool((scales > 0.0).all() and across.max() < _TOLERANCE)


def sample_parallel(
    data: Floats,
    to_voxel: Affine,
    shape: tuple[int, int, int],
    sigmas: NDArray[np.float64],
    truncate: float,
    outside: float,
) -> Floats:
    """Smooth (I, J, K) by Gaussians of `sigmas` voxels, and interpolate linearly.

    `to_voxel` maps indices of the result, of `shape`, to those of the data; it is
    diagonal. The edges are repeated, and what lies half a voxel beyond them is
    `outside`. The kernels end at `truncate` standard deviations. Returns Fortran order.
    """
    known, result = [], data.T
    # Sums relative to a corner, so that rounding leaves a flat volume flat.
    corner = data[0, 0, 0] if np.isfinite(data[0, 0, 0]) else np.float32(0.0)
    if sigmas.any():
        result = result - corner
    for axis in reversed(range(3)):
        size = data.shape[axis]
        positions = to_voxel[axis, axis] * np.arange(shape[axis]) + to_voxel[axis, 3]
        reach = int(truncate * sigmas[axis] + 0.5)
        taps = _make_taps(positions.clip(0.0, size - 1.0), sigmas[axis], reach, size)
        result = _apply(result, 2 - axis, taps)
        # As SimpleITK: the lower edge of the volume belongs to it.
        limits = np.array([-0.5, size - 0.5]) - _TOLERANCE
        known.append((positions >= limits[0]) & (positions < limits[1]))
    if sigmas.any():
        result += corner
    for axis, is_known in enumerate(known):
        result[(slice(None),) * axis + (~is_known,)] = outside
    return result.T


def _make_taps(
    positions: NDArray[np.float64], sigma: float, reach: int, size: int
) -> Taps:
    """Return the voxels that each position depends on, and their weights."""
    lower = np.floor(positions).astype(np.intp)
    fractions = (positions - lower)[:, None]
    kernel = np.ones(1)
    if reach:
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        kernel /= kernel.sum()
    weights = np.append(kernel, 0.0) * (1.0 - fractions)
    weights += np.append(0.0, kernel) * fractions
    offsets = np.arange(-reach, reach + 2)
    indices = (lower[:, None] + offsets).clip(0, size - 1)
    return indices, weights.astype(np.float32)


def _apply(data: Floats, axis: int, taps: Taps) -> Floats:
    """Sum the voxels along an axis that the taps name."""
    indices, weights = taps
    if axis == 2 and weights.shape[1] > 2:  # a product is faster than gathering
        matrix = np.zeros((len(indices), data.shape[2]), np.float32)
        np.add.at(matrix, (np.arange(len(indices))[:, None], indices), weights)
        return np.asarray(data @ matrix.T)
    shape = np.where(np.arange(3) == axis, -1, 1)
    if weights.shape[1] == 2:
        low = data.take(indices[:, 0], axis)
        if weights[:, 1].any():
            high = data.take(indices[:, 1], axis)
            high -= low
            high *= weights[:, 1].reshape(shape)
            low += high
        return np.asarray(low)
    total = np.zeros((), np.float32)
    for index, weight in zip(indices.T, weights.T, strict=True):
        if weight.any():
            part = data.take(index, axis)
            part *= weight.reshape(shape)
            total = np.add(total, part, out=part)
    return np.asarray(total)
