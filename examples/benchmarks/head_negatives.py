"""Volumes in which no whole adult brain lies as the header says, made from a head."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brainfeat import Geometry, Volume

Affine = NDArray[np.float64]
_ORDERS = {"LPS": (-1, -1, 1), "LAI": (-1, 1, -1), "RPI": (1, -1, -1)}


def make_negatives(
    head: Volume, brain: Volume, seed: int = 0
) -> Iterator[tuple[str, Volume]]:
    """Yield names and volumes, from a T1w head and its boolean brain mask."""
    rng = np.random.default_rng(seed)
    stripped = head.data * brain.data
    yield from _wrong_axes("head", head)
    yield from _wrong_axes("stripped", Volume(stripped, head.geometry))
    yield from _other_sizes(head, stripped)
    yield from _parts(head, brain, stripped)
    yield from _maps(head, brain, stripped)
    yield "CT", _computed_tomography(head, brain, rng)
    yield "BOLD mean", _bold_mean(head, brain, rng)
    yield "sphere", _sphere(rng)
    yield "cord", _cord(rng)
    noise = rng.normal(100.0, 20.0, (60, 70, 65)).astype(np.float32)
    yield "noise", Volume(noise, Geometry(noise.shape, np.diag([3.0, 3, 3, 1])))


def _wrong_axes(name: str, volume: Volume) -> Iterator[tuple[str, Volume]]:
    for order, signs in _ORDERS.items():
        yield f"{name} {order}", _with_linear(volume, np.diag(signs))
    for order, axes in (("SRA", (1, 2, 0)), ("ASR", (2, 0, 1))):
        yield f"{name} {order}", _with_linear(volume, np.eye(3)[:, axes])
    shape, spacing = volume.geometry.shape, volume.geometry.spacing
    identity = np.diag([*spacing, 1.0])
    reversed_axes = Geometry(shape[::-1], identity[[2, 1, 0, 3]][:, [2, 1, 0, 3]])
    yield f"{name} reversed axes", Volume(volume.data.T, reversed_axes)


def _other_sizes(
    head: Volume, stripped: NDArray[np.float32]
) -> Iterator[tuple[str, Volume]]:
    for name, sizes in (
        ("infant", (0.75, 0.75, 0.75)),
        ("monkey", (0.52, 0.62, 0.48)),
        ("large monkey", (0.6, 0.75, 0.55)),
    ):
        yield f"{name} head", _with_linear(head, np.diag(sizes))
        brain = Volume(stripped, head.geometry)
        yield f"{name} stripped", _with_linear(brain, np.diag(sizes))


def _parts(
    head: Volume, brain: Volume, stripped: NDArray[np.float32]
) -> Iterator[tuple[str, Volume]]:
    i, j, k = ndimage.center_of_mass(brain.data)
    x, y, z = np.array([i, j, k]).astype(int)
    dx, dy, dz = np.array(head.geometry.spacing)
    half, slab = int(2.0 + x), int(20.0 / dz)
    yield "half head", _cut(head, head.data, (0, half), 0)
    yield "half brain", _cut(head, stripped, (0, x), 0)
    emptied = stripped.copy()
    emptied[x:] = 0.0
    yield "half brain, whole grid", Volume(emptied, head.geometry)
    yield "slab", _cut(head, head.data, (z - slab, z + slab), 2)
    yield "coronal slab", _cut(head, head.data, (y - int(25 / dy), y + int(25 / dy)), 1)
    yield "upper half", _cut(head, head.data, (z, head.data.shape[2]), 2)
    yield "lower half", _cut(head, head.data, (0, z), 2)
    step = int(25.0 / dx)
    few = head.data[x % step :: step]
    affine = head.geometry.affine @ np.diag([step, 1.0, 1.0, 1.0])
    yield "localizer", Volume(few, Geometry(few.shape, affine))


def _maps(
    head: Volume, brain: Volume, stripped: NDArray[np.float32]
) -> Iterator[tuple[str, Volume]]:
    smooth = ndimage.gaussian_filter(stripped, 0.7)
    low, high = np.percentile(smooth[brain.data], [30.0, 70.0])
    white = np.clip((smooth - low) / (high - low), 0.0, 1.0) * brain.data
    gray = np.where(white > 0.5, 1.0 - white, white * 2.0) * brain.data
    labels = np.digitize(smooth, [0.4 * low, low, high]) * brain.data
    for name, data in (
        ("probability of white matter", white),
        ("probability of gray matter", gray),
        ("segmentation", labels),
        ("brain mask", brain.data),
    ):
        yield name, Volume(data.astype(np.float32), head.geometry)


def _computed_tomography(
    head: Volume, brain: Volume, rng: np.random.Generator
) -> Volume:
    """Bright bone around a brain without contrast; dark air."""
    spacing = head.geometry.spacing
    distance = ndimage.distance_transform_edt(~brain.data, spacing)
    inside = head.data > 0.15 * np.percentile(head.data, 98.0)
    data = np.where(ndimage.binary_closing(inside, iterations=2), 20.0, -1000.0)
    data[brain.data] = 35.0
    data[(distance > 1.0) & (distance < 9.0)] = 900.0
    data += rng.normal(0.0, 8.0, data.shape)
    return Volume(data.astype(np.float32), head.geometry)


def _bold_mean(head: Volume, brain: Volume, rng: np.random.Generator) -> Volume:
    """Coarse voxels, fluid brighter than tissue, no scalp, signal lost at the base."""
    typical = np.percentile(head.data[brain.data], 99.0)
    data = np.where(brain.data, 1.4 * typical - head.data, 0.1 * head.data)
    data = ndimage.gaussian_filter(data, 2.0 / np.array(head.geometry.spacing))
    _, j, k = np.argwhere(brain.data).T
    base = np.percentile(k, 25.0), np.percentile(j, 60.0)
    data[:, int(base[1]) :, : int(base[0])] *= 0.25
    factors = [max(1, round(3.0 / mm)) for mm in head.geometry.spacing]
    data = data[:: factors[0], :: factors[1], :: factors[2]]
    data = data + rng.normal(0.0, 0.02 * typical, data.shape)
    affine = head.geometry.affine @ np.diag([*factors, 1.0])
    return Volume(data.astype(np.float32), Geometry(data.shape, affine))


def _sphere(rng: np.random.Generator) -> Volume:
    """A phantom: a sphere of water with a darker insert."""
    x, y, z = np.ogrid[-100:100:2.0, -100:100:2.0, -100:100:2.0]
    radius = np.sqrt(x**2 + y**2 + z**2)
    data = np.where(radius < 85.0, 800.0, 0.0)
    data[(np.abs(x) < 20) & (np.abs(y) < 30) & (np.abs(z) < 10)] = 500.0
    data += np.abs(rng.normal(0.0, 15.0, data.shape))
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -100.0
    return Volume(data.astype(np.float32), Geometry(data.shape, affine))


def _cord(rng: np.random.Generator) -> Volume:
    """A neck: muscle around bone around a cord."""
    x, y, z = np.ogrid[-80:80:2.0, -80:80:2.0, -110:110:2.0]
    radius = np.sqrt(x**2 + (0.9 * y) ** 2) + 0 * z
    bone = np.sqrt(x**2 + (y + 20) ** 2) + 0 * z
    data = np.where(radius < 60.0, 500.0, 0.0)
    data[radius > 52.0] *= 1.8
    data[bone < 16.0] = 350.0 + 80.0 * (np.sin(z / 6.0) > 0)[..., :].ravel()[0]
    data[bone < 7.0] = 700.0
    data += np.abs(rng.normal(0.0, 15.0, data.shape))
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (-80.0, -80.0, -110.0)
    return Volume(data.astype(np.float32), Geometry(data.shape, affine))


def _with_linear(volume: Volume, linear: NDArray[np.float64]) -> Volume:
    affine = np.eye(4)
    affine[:3, :3] = linear
    geometry = Geometry(volume.geometry.shape, affine @ volume.geometry.affine)
    return Volume(volume.data, geometry)


def _cut(
    volume: Volume, data: NDArray[np.float32], bounds: tuple[int, int], axis: int
) -> Volume:
    start = max(bounds[0], 0)
    part = np.take(data, np.arange(start, min(bounds[1], data.shape[axis])), axis)
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += affine[:3, axis] * start
    return Volume(part, Geometry(part.shape, affine))
