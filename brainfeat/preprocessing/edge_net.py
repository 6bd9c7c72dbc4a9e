"""Refine the edge of a brain that was found at 4 mm to voxels of 2 mm.

A second, small network looks at what lies around the edge, whose brightness is relative
to the brain's near by. It runs in NumPy, and only near the edge.

It was trained by examples/benchmarks/train_edge_net.py, one half on heads synthesised
as for `brain_net`, the other on real ones with masks of deepbet (MIT): 41 people of
IXI (CC BY-SA 3.0, https://brain-development.org/ixi-dataset), three of OpenfMRI
ds000011 (PDDL), one of OpenNeuro ds002608 (PDDL) and one of pycortex (BSD).
"""

__all__ = [
    "EdgeInput",
    "edge_band",
    "halve_grid",
    "prepare_edge",
    "refine_edge",
]

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from brainfeat.preprocessing.blocks import from_blocks, to_blocks
from brainfeat.preprocessing.head_model import load_depth
from brainfeat.preprocessing.morphology import bounds, dilate
from brainfeat.preprocessing.resampling import crop, downsample, resample
from brainfeat.volume import Geometry, Volume

Flags = NDArray[np.bool_]
Floats = NDArray[np.float32]

_WEIGHTS = Path(__file__).parent / "edge_net.npz"
_SLOPE = np.float32(0.1)  # of the activation below zero
_N_LAYERS = 3
_CERTAIN = (0.002, 0.998)
_BAND = (0.1, 0.9)  # fractions of brain that the edge runs through
_MARGIN = _N_LAYERS + 2  # voxels of 4 mm around the brain
_DEEPEST, _DEPTH_UNIT = 20.0, 10.0  # mm below the template's surface
_CHUNK = 512  # voxels
_NEIGHBOURS = np.argwhere(np.ones((3, 3, 1), bool)) - [1, 1, 0]
_TINY = 1e-12  # avoids division by zero
_BRIGHTEST = 3.0  # relative to the brain near by


class EdgeInput(NamedTuple):
    """What lies around a brain, in voxels of 4 mm."""

    grid: Geometry  # around the brain
    channels: Floats  # (I, J, K, 10): brightness of eighths, log odds, depth
    fraction: Floats  # (I, J, K), of each voxel that is brain


def prepare_edge(
    volume: Volume,
    fraction: Volume,
    level: Floats,
    limits: tuple[float, float],
    pose: NDArray[np.float64],
) -> EdgeInput:
    """Sample a volume around a brain at 2 mm, relative to its local brightness.

    `fraction` is of voxels of 4 mm, and so is `level`, the brightness of the brain near
    by where `limits` are 0 and 1. `pose` maps template mm to scanner mm, roughly.
    """
    start, stop = bounds(fraction.data > _BAND[0], _MARGIN)
    near = crop(fraction, start, stop)
    grid, fine = near.geometry, halve_grid(near.geometry)
    low, high = limits
    half = downsample(volume, 2.0, around=fine)
    sampled = resample(half, fine, np.eye(4), outside=low)
    blocks = (to_blocks(sampled) - np.float32(low)) / np.float32(high - low)
    blocks /= np.maximum(level[tuple(map(slice, start, stop))], _TINY)[..., None]
    channels = np.empty((*grid.shape, 10), np.float32)
    np.clip(blocks, 0.0, _BRIGHTEST, out=channels[..., :8])
    certain = near.data.clip(*_CERTAIN)
    channels[..., 8] = np.log(certain / (1.0 - certain))
    to_template = np.asarray(np.linalg.inv(pose), dtype=np.float64)
    depth = resample(_load_depth(), grid, to_template, outside=-_DEEPEST)
    channels[..., 9] = depth.clip(-_DEEPEST, _DEEPEST) / _DEPTH_UNIT
    return EdgeInput(grid, channels, near.data)


def edge_band(fraction: Floats) -> Flags:
    """Return the voxels of 4 mm that the edge may run through."""
    edge = (fraction > _BAND[0]) & (fraction < _BAND[1])
    inside = fraction >= 0.5
    outside = np.pad(~inside, 1, constant_values=True)
    edge |= inside & dilate(outside)[1:-1, 1:-1, 1:-1]
    return dilate(edge)


def refine_edge(edge: EdgeInput) -> Volume:
    """Return the probability of brain in voxels of 2 mm, in the box of the brain."""
    shape = edge.fraction.shape
    band = edge_band(edge.fraction)
    padded = tuple(size + 2 for size in shape)
    core = (slice(1, -1),) * 3
    reach = [np.pad(band, 1)]
    for _ in range(_N_LAYERS - 1):
        reach.append(np.pad(dilate(reach[-1][core], diagonally=True), 1))
    data = np.pad(edge.channels, ((1, 1), (1, 1), (1, 1), (0, 0)))
    data = data.reshape(-1, data.shape[-1])
    weights = _load_weights()
    steps = padded[1] * padded[2], padded[2]
    for layer in range(_N_LAYERS):
        at = np.flatnonzero(reach[-1 - layer])
        weight = weights[f"{layer}.weight"]
        values = _convolve(data, at, steps, weight) + weights[f"{layer}.bias"]
        values = np.maximum(values, _SLOPE * values)
        data = np.zeros((len(data), len(weight)), np.float32)
        data[at] = values
    scores = values @ weights["out.weight"].T + weights["out.bias"]
    scores += edge.channels[band][:, 8:9]
    result = np.repeat(edge.fraction[..., None], 8, axis=3)
    result[band] = 1.0 / (1.0 + np.exp(-scores.clip(-30.0, 30.0)))
    return Volume(from_blocks(result), halve_grid(edge.grid))


def halve_grid(grid: Geometry) -> Geometry:
    """Divide each voxel of a grid in eight."""
    affine = grid.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, 0.25)
    affine[:3, :3] /= 2.0
    i, j, k = grid.shape
    return Geometry((2 * i, 2 * j, 2 * k), affine)


@cache
def _load_depth() -> Volume:
    return downsample(load_depth(), 4.0)


@cache
def _load_weights() -> dict[str, NDArray[Any]]:
    with np.load(_WEIGHTS) as arrays:
        return {name: arrays[name].astype(np.float32) for name in arrays.files}


def _convolve(
    data: Floats, at: NDArray[np.intp], steps: tuple[int, int], weight: Floats
) -> Floats:
    """Convolve rows (n, C) at some of them with (O, C, 3, 3, 3).

    `steps` are the rows from a voxel to its neighbours along the first two axes.
    """
    n_out = len(weight)
    taps = weight.transpose(2, 3, 4, 1, 0).reshape(-1, n_out)
    # Three neighbours lie side by side, and are gathered at once.
    shifts = _NEIGHBOURS @ np.array([*steps, 1]) - 1
    data = np.ascontiguousarray(data)
    width = data[0].nbytes
    kind = np.dtype((np.void, 3 * width))
    threes = np.ndarray((len(data) - 2,), kind, data, strides=(width,))
    result = np.empty((len(at), n_out), np.float32)
    # What is gathered at once stays in the cache.
    for start in range(0, len(at), _CHUNK):
        part = at[start : start + _CHUNK]
        near = threes[part[:, None] + shifts].view(np.float32)
        np.matmul(near, taps, out=result[start : start + _CHUNK])
    return result
