"""A small convolutional network that finds the brain in a head of any contrast.

It was trained on images synthesised from label maps of whole heads, with random
brightness of each tissue [1]_, [2]_, by examples/benchmarks/train_brain_net.py. It runs
in NumPy, so that preprocessing does not wait for PyTorch.

The label maps are that of the head of `simulate_cohort` and 15 of SynthSeg's training
set [1]_, by Benjamin Billot and others, under the licence Apache-2.0
(https://github.com/BBillot/SynthSeg). No scan was used. The weights have the licence of
this package.

References
----------
.. [1] Billot et al., SynthSeg: Segmentation of brain MRI scans of any contrast and
   resolution without retraining. Medical Image Analysis 86, 2023.
   doi:10.1016/j.media.2023.102789
.. [2] Hoopes et al., SynthStrip: skull-stripping for any brain image. NeuroImage 260,
   2022. doi:10.1016/j.neuroimage.2022.119474
"""

__all__ = ["STRIDE", "run_brain_net"]

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import sgemm

from brainfeat.preprocessing.blocks import from_blocks, to_blocks

Floats = NDArray[np.float32]

STRIDE = 8
"""Voxels along each axis of the input are a multiple of it."""

_WEIGHTS = Path(__file__).parent / "brain_net.npz"
_SLOPE = np.float32(0.1)  # of the activation below zero
_COORDINATE_UNIT = 100.0  # mm


def run_brain_net(intensities: Floats) -> tuple[Floats, Floats]:
    """Return where the brain is, and where in the template each block of it lies.

    `intensities` (I, J, K) in 0 to 1 are of voxels of 4 mm in RAS order, zero outside
    the field of view. The probabilities (I, J, K) are of brain with its fluid, the
    coordinates (3, I / 2, J / 2, K / 2) of blocks of two voxels in template mm.
    """
    fine = _layers("e0", to_blocks(intensities))
    middle = _layers("e1", fine)
    coarse = _layers("e2", middle)
    middle = _layers("d1", _add_upsampled(middle, _project("p1", coarse)))
    fine = _layers("d0", _add_upsampled(fine, _project("p0", middle)))
    result = _project("out", fine)
    scores = from_blocks(result[..., :8])
    probabilities = 1.0 / (1.0 + np.exp(-np.clip(scores, -30.0, 30.0)))
    coordinates = np.moveaxis(result[..., 8:], -1, 0) * np.float32(_COORDINATE_UNIT)
    return probabilities.astype(np.float32), np.ascontiguousarray(coordinates)


@cache
def _load_weights() -> dict[str, NDArray[Any]]:
    """Return the weights (O, C, 3, 3, 3) as (3, 3, 3, C, O), and (O, C) as (C, O)."""
    with np.load(_WEIGHTS) as arrays:
        weights = {name: arrays[name].astype(np.float32) for name in arrays.files}
    for name, weight in weights.items():
        if weight.ndim > 1:
            axes = (*range(2, weight.ndim), 1, 0)
            weights[name] = np.ascontiguousarray(weight.transpose(axes))
    return weights


def _layers(name: str, data: Floats) -> Floats:
    """Apply the convolutions of a stage; the first of an encoder's halves the grid."""
    weights = _load_weights()
    index = 0
    while f"{name}.{index}.weight" in weights:
        weight = weights[f"{name}.{index}.weight"]
        bias = weights[f"{name}.{index}.bias"]
        halves = index == 0 and name in {"e1", "e2"}
        convolve = _convolve_halving if halves else _convolve
        data = convolve(data, weight, bias)
        data = np.maximum(data, _SLOPE * data)
        index += 1
    return data


def _project(name: str, data: Floats) -> Floats:
    weights = _load_weights()
    return np.asarray(data @ weights[f"{name}.weight"] + weights[f"{name}.bias"])


def _convolve(data: Floats, weight: Floats, bias: Floats) -> Floats:
    """Convolve (I, J, K, C) with (3, 3, 3, C, O), zeros outside."""
    i, j, k, n_in = data.shape
    padded = np.zeros((i + 2, j + 2, k + 2, n_in), np.float32)
    padded[1:-1, 1:-1, 1:-1] = data
    # In the flat, padded array a shift is an offset: products need no copies.
    flat = padded.reshape(-1, n_in)
    row, plane = k + 2, (j + 2) * (k + 2)
    size = (i - 1) * plane + (j - 1) * row + k
    result = np.tile(bias, (i * plane, 1))
    total = result[:size].T
    for di, dj, dk in np.ndindex(3, 3, 3):
        offset = di * plane + dj * row + dk
        shifted = flat[offset : offset + size].T
        # Added in place, which is faster than a product and a sum.
        sgemm(1.0, weight[di, dj, dk].T, shifted, 1.0, total, overwrite_c=1)
    return result.reshape(i, j + 2, k + 2, -1)[:, :j, :k]


def _convolve_halving(data: Floats, weight: Floats, bias: Floats) -> Floats:
    """Convolve as `_convolve`, at every other voxel of each axis."""
    *shape, n_in = data.shape
    padded = np.pad(data, ((1, 1), (1, 1), (1, 1), (0, 0)))
    half = [size // 2 for size in shape]
    patches = np.empty((*half, 3, 3, 3, n_in), dtype=np.float32)
    for shift in np.ndindex(3, 3, 3):
        every = tuple(slice(s, s + 2 * n, 2) for s, n in zip(shift, half, strict=True))
        patches[:, :, :, *shift] = padded[every]
    flat = patches.reshape(-1, 27 * n_in) @ weight.reshape(27 * n_in, -1)
    return np.asarray((flat + bias).reshape(*half, -1))


def _add_upsampled(data: Floats, coarse: Floats) -> Floats:
    """Add each coarse voxel to the block of eight that it covers."""
    i, j, k, n_channels = coarse.shape
    blocks = data.reshape(i, 2, j, 2, k, 2, n_channels)
    summed = blocks + coarse[:, None, :, None, :, None]
    return np.asarray(summed.reshape(data.shape))
