"""The most probable class at points between voxels."""

__all__ = ["choose_classes"]

from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brainfeat.preprocessing.resampling import TRUNCATE
from brainfeat.preprocessing.smoothing import half_kernel

_POINTS = 4096  # whose classes stay in a CPU's cache


@torch.inference_mode()
def choose_classes(
    values: NDArray[np.float16], points: NDArray[Any], sigma: float = 0.0
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Interpolate all classes at points, and return the most probable one of each.

    Linear, after smoothing by `sigma` voxels; the edges are repeated. All classes of a
    point are read together, which is faster than resampling each to a grid.

    Parameters
    ----------
    values : ndarray of shape (n_classes, size_i, size_j, size_k)
        Probabilities; fastest if the classes of a voxel lie side by side.
    points : ndarray of shape (n_points, 3)
        In voxels.
    sigma : float
        Standard deviation of the smoothing.

    Returns
    -------
    indices : ndarray of shape (n_points,)
        Of the most probable class.
    probabilities : ndarray of shape (n_points,)
        Of this class.
    """
    # In the order of memory, so that nothing is copied.
    order = np.argsort([-stride for stride in values.strides[1:]], kind="stable")
    block = np.ascontiguousarray(values.transpose(*(order + 1), 0))
    rows = torch.from_numpy(block.reshape(-1, len(values)))
    kernel = _full_kernel(sigma)
    indices = torch.empty(len(points), dtype=torch.int64)
    probabilities = torch.empty(len(points))
    ordered = torch.from_numpy(points[:, order].astype(np.float32))
    for start in range(0, len(points), _POINTS):
        part = slice(start, start + _POINTS)
        sampled = _sample(rows, block.shape[:3], ordered[part], kernel)
        torch.max(sampled, 1, out=(probabilities[part], indices[part]))
    return indices.numpy(), probabilities.numpy()


def _sample(
    rows: Tensor, shape: tuple[int, ...], points: Tensor, kernel: Tensor
) -> Tensor:
    """Interpolate rows (i * j * k, C) at points (n, 3), (n, C) float32."""
    n_taps, first = len(kernel) + 1, -(len(kernel) // 2)
    offsets, weights = [], []  # of each axis and tap, (n,)
    stride = len(rows)
    for axis, size in enumerate(shape):
        stride //= size
        x = points[:, axis].clamp(0, size - 1)
        low = x.floor()
        taps = low.long() + torch.arange(first, first + n_taps)[:, None]
        offsets.append(taps.clamp_(0, size - 1).mul_(stride))
        weights.append(_interpolate_kernel(kernel, x - low))
    result = torch.zeros(len(points), rows.shape[1])
    for i, j in product(range(n_taps), repeat=2):
        flat, weight = offsets[0][i] + offsets[1][j], weights[0][i] * weights[1][j]
        for k in range(n_taps):
            values = rows.index_select(0, flat + offsets[2][k]).float()
            result.addcmul_(values, (weight * weights[2][k])[:, None])
    return result


def _full_kernel(sigma: float) -> Tensor:
    if sigma == 0:
        return torch.ones(1)
    half = half_kernel(sigma, TRUNCATE)
    return torch.from_numpy(np.concatenate([half[:0:-1], half]))


def _interpolate_kernel(kernel: Tensor, fraction: Tensor) -> Tensor:
    """Return weights (n_taps, n) of voxels, for points a fraction after one."""
    zero = torch.zeros(1)
    here, after = torch.cat([kernel, zero]), torch.cat([zero, kernel])
    return here[:, None] + (after - here)[:, None] * fraction
