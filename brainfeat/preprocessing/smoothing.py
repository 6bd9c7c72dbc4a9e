"""Gaussian smoothing along one axis, in blocks that stay in the cache."""

__all__ = ["half_kernel", "smooth_axis"]

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_BLOCK = 32_768  # voxels that are smoothed at once stay in the cache


def smooth_axis(data: Floats, sigma: float, axis: int, truncate: float) -> Floats:
    """Smooth (I, J, K) in C order by `sigma` voxels, the edges repeated.

    The kernel ends at `truncate` standard deviations.
    """
    weights = half_kernel(sigma, truncate)
    reach = len(weights) - 1
    result = np.empty_like(data)
    if axis == 0:
        _smooth_planes(data, weights, result)
        return result
    step = max(1, _BLOCK // data[0].size)
    for start in range(0, len(data), step):
        part = slice(start, start + step)
        _smooth_block(_pad(data[part], axis, reach), axis, weights, result[part])
    return result


def half_kernel(sigma: float, truncate: float) -> Floats:
    """Return the weights of a Gaussian, from its centre to one side."""
    reach = int(truncate * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(reach + 1) / sigma) ** 2)
    half: Floats = (weights / (2.0 * weights.sum() - weights[0])).astype(np.float32)
    return half


def _smooth_planes(data: Floats, weights: Floats, result: Floats) -> None:
    last = len(data) - 1
    both = np.empty_like(data[0])
    for index, plane in enumerate(result):
        np.multiply(data[index], weights[0], out=plane)
        for offset, weight in enumerate(weights[1:], 1):
            low, high = max(index - offset, 0), min(index + offset, last)
            np.add(data[low], data[high], out=both)
            both *= weight
            plane += both


def _pad(data: Floats, axis: int, reach: int) -> Floats:
    """Repeat both edges of an axis."""
    before, size = (slice(None),) * axis, data.shape[axis]
    shape = list(data.shape)
    shape[axis] += 2 * reach
    padded = np.empty(shape, np.float32)
    padded[(*before, slice(reach, reach + size))] = data
    padded[(*before, slice(None, reach))] = data[(*before, slice(None, 1))]
    padded[(*before, slice(reach + size, None))] = data[(*before, slice(-1, None))]
    return padded


def _smooth_block(near: Floats, axis: int, weights: Floats, result: Floats) -> None:
    """Convolve what `_pad` returned."""
    before, size = (slice(None),) * axis, result.shape[axis]
    reach = len(weights) - 1
    np.multiply(near[(*before, slice(reach, reach + size))], weights[0], out=result)
    both = np.empty(result.shape, np.float32)
    for offset, weight in enumerate(weights[1:], 1):
        low, high = reach - offset, reach + offset
        np.add(
            near[(*before, slice(low, low + size))],
            near[(*before, slice(high, high + size))],
            out=both,
        )
        both *= weight
        result += both
