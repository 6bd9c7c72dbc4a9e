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
    fine = _layers("e0", _to_blocks(intensities))
    middle = _layers("e1", fine)
    coarse = _layers("e2", middle)
    middle = _layers("d1", middle + _upsample(_project("p1", coarse)))
    fine = _layers("d0", fine + _upsample(_project("p0", middle)))
    result = _project("out", fine)
    scores = _from_blocks(result[:8])
    probabilities = 1.0 / (1.0 + np.exp(-np.clip(scores, -30.0, 30.0)))
    return probabilities.astype(np.float32), result[8:] * np.float32(_COORDINATE_UNIT)


@cache
def _load_weights() -> dict[str, NDArray[Any]]:
    with np.load(_WEIGHTS) as arrays:
        return {name: arrays[name].astype(np.float32) for name in arrays.files}


def _layers(name: str, data: Floats) -> Floats:
    """Apply the convolutions of a stage; the first of an encoder's halves the grid."""
    weights = _load_weights()
    index = 0
    while f"{name}.{index}.weight" in weights:
        weight = weights[f"{name}.{index}.weight"]
        bias = weights[f"{name}.{index}.bias"]
        halves = index == 0 and name in {"e1", "e2"}
        convolve = _convolve_halving if halves else _convolve
        data = convolve(data, weight) + bias[:, None, None, None]
        data = np.maximum(data, _SLOPE * data)
        index += 1
    return data


def _project(name: str, data: Floats) -> Floats:
    weights = _load_weights()
    flat = weights[f"{name}.weight"] @ data.reshape(len(data), -1)
    flat += weights[f"{name}.bias"][:, None]
    return np.asarray(flat.reshape(-1, *data.shape[1:]))


def _convolve(data: Floats, weight: Floats) -> Floats:
    """Convolve (C, I, J, K) with (O, C, 3, 3, 3), zeros outside."""
    n_in, i, j, k = data.shape
    padded = np.pad(data, ((0, 0), (1, 1), (1, 1), (1, 1))).reshape(n_in, -1)
    row, plane = k + 2, (j + 2) * (k + 2)
    # In the flat, padded array a shift is an offset: products need no copies.
    length = padded.shape[1] - 2
    lines = np.concatenate([padded[:, shift : shift + length] for shift in range(3)])
    size = (i - 1) * plane + (j - 1) * row + k
    result = np.zeros((len(weight), i * plane), dtype=np.float32)
    total = result[:, :size]
    for di in range(3):
        for dj in range(3):
            offset = di * plane + dj * row
            taps = weight[:, :, di, dj].transpose(0, 2, 1).reshape(len(weight), -1)
            total += taps @ lines[:, offset : offset + size]
    return result.reshape(-1, i, j + 2, k + 2)[:, :, :j, :k]


def _convolve_halving(data: Floats, weight: Floats) -> Floats:
    """Convolve as `_convolve`, at every other voxel of each axis."""
    n_in, *shape = data.shape
    padded = np.pad(data, ((0, 0), (1, 1), (1, 1), (1, 1)))
    half = [size // 2 for size in shape]
    patches = np.empty((n_in, 3, 3, 3, *half), dtype=np.float32)
    for shift in np.ndindex(3, 3, 3):
        every = tuple(slice(s, s + 2 * n, 2) for s, n in zip(shift, half, strict=True))
        patches[:, *shift] = padded[:, *every]
    flat = weight.reshape(len(weight), -1) @ patches.reshape(n_in * 27, -1)
    return np.asarray(flat.reshape(-1, *half))


def _to_blocks(data: Floats) -> Floats:
    """Turn blocks of two voxels along each axis into eight channels."""
    i, j, k = (size // 2 for size in data.shape)
    blocks = data.reshape(i, 2, j, 2, k, 2).transpose(1, 3, 5, 0, 2, 4)
    return np.ascontiguousarray(blocks.reshape(8, i, j, k))


def _from_blocks(data: Floats) -> Floats:
    _, i, j, k = data.shape
    voxels = data.reshape(2, 2, 2, i, j, k).transpose(3, 0, 4, 1, 5, 2)
    return voxels.reshape(2 * i, 2 * j, 2 * k)


def _upsample(data: Floats) -> Floats:
    for axis in (1, 2, 3):
        data = np.repeat(data, 2, axis)
    return data
