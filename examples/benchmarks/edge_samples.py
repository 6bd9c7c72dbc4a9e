"""Synthetic and real heads around the edge of the brain, to train its refinement.

Each sample is what the refining network sees of a head, with the true brain at 2 mm.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from head_scans import Scan, read_manifest, reference_mask
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from synthetic_heads import (
    N_CLASSES,
    Floats,
    Generator,
    LabelledHead,
    add_noise,
    blur,
    draw_brightness,
    shrink,
    smooth_field,
)

from brainfeat import Geometry, Volume
from brainfeat.preprocessing.blocks import to_blocks
from brainfeat.preprocessing.brain_search import find_edge
from brainfeat.preprocessing.edge_net import edge_band, halve_grid
from brainfeat.preprocessing.intensities import repair
from brainfeat.preprocessing.resampling import reorient_to_ras, resample

SHAPE = (176, 208, 176)  # mm
MIN_OVERLAP = 0.8  # what the first network misses wholly is no sample


class EdgeSample(NamedTuple):
    """What lies around a brain in voxels of 4 mm, the last axis within them."""

    channels: NDArray[np.float16]  # (I, J, K, 10)
    truth: NDArray[np.float16]  # (I, J, K, 8), of voxels of 2 mm
    band: NDArray[np.bool_]  # (I, J, K), to be refined and in the field of view


def read_real(
    folder: Path, cache: Path | None, left_out: tuple[str, ...]
) -> Iterator[EdgeSample]:
    """Yield the heads of a manifest with a reference, but for some names."""
    for scan in read_manifest(folder):
        if scan.brain == "head" and not any(text in scan.name for text in left_out):
            sample = _read_scan(scan, cache)
            if sample is not None:
                yield sample


def _read_scan(scan: Scan, cache: Path | None) -> EdgeSample | None:
    volume = repair(scan.read())
    reference = reference_mask(scan, volume, cache)
    return None if reference is None else make_sample(volume, reference)


def draw_samples(
    rng: Generator, heads: list[LabelledHead], n_images: int
) -> list[EdgeSample]:
    """Draw images of one anatomy."""
    fractions, brain = _draw_anatomy(rng, heads)
    drawn = (make_sample(*_draw_scan(rng, fractions, brain)) for _ in range(n_images))
    return [sample for sample in drawn if sample is not None]


def make_sample(volume: Volume, brain: Volume) -> EdgeSample | None:
    """Prepare a head; None if its brain is not found."""
    volume, brain = reorient_to_ras(volume), reorient_to_ras(brain)
    edge = find_edge(volume)
    if edge is None:
        return None
    fraction = Volume(brain.data.astype(np.float32), brain.geometry)
    truth = to_blocks(resample(fraction, halve_grid(edge.grid), np.eye(4)))
    total = truth.mean(axis=3)
    common = 2.0 * np.minimum(edge.fraction, total).sum()
    if common < MIN_OVERLAP * (edge.fraction.sum() + total.sum()):
        return None
    shown = Volume(np.ones(volume.data.shape, np.float32), volume.geometry)
    in_view = resample(shown, edge.grid, np.eye(4)) > 0.9
    band = edge_band(edge.fraction) & in_view
    return EdgeSample(edge.channels.astype(np.float16), truth.astype(np.float16), band)


def _draw_anatomy(rng: Generator, heads: list[LabelledHead]) -> tuple[Floats, Floats]:
    """Deform a head; return fractions (classes, I, J, K) and brain at 2 mm."""
    head = heads[rng.integers(len(heads))]
    turn = Rotation.from_rotvec(rng.normal(size=3) * [0.22, 0.12, 0.12]).as_matrix()
    linear = turn @ np.diag(np.exp(rng.normal(0, 0.08) + rng.normal(0, 0.05, 3)))
    if rng.random() < 0.1:  # a child's
        linear = linear * np.exp(rng.uniform(0.0, 0.2))
    linear = linear @ np.diag([rng.choice([-1.0, 1.0]), 1.0, 1.0])
    shift = rng.normal(size=3) * [3, 4, 4] - [0, 0, 2]
    amplitude = rng.uniform(0, 4)
    points = []
    for axis, size in enumerate(SHAPE):
        line = np.arange(size, dtype=np.float32) - (size - 1) / 2.0 - shift[axis]
        line = line.reshape(np.where(np.arange(3) == axis, -1, 1))
        points.append(line + smooth_field(rng, SHAPE, 5, amplitude))
    voxels = np.einsum("ij,jabc->iabc", linear.astype(np.float32), np.stack(points))
    voxels += head.middle.astype(np.float32)[:, None, None, None]
    indices = np.rint(voxels).astype(np.int32)
    last = np.array(head.classes.shape, np.int32)[:, None, None, None] - 1
    is_inside = ((indices >= 0) & (indices <= last)).all(axis=0)
    i, j, k = indices.clip(0, last)
    classes = np.where(is_inside, head.classes[i, j, k], np.uint8(0))
    brain = head.brain[i, j, k] & is_inside
    if rng.random() < 0.3:
        classes = shrink(rng, classes, brain)
    return _average(classes, brain)


def _average(
    classes: NDArray[np.uint8], brain: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    i, j, k = (size // 2 for size in SHAPE)
    fractions = np.zeros((N_CLASSES, i * j * k), np.float32)
    inside = np.zeros(i * j * k, np.float32)
    every = np.arange(i * j * k)
    for a, b, c in np.ndindex(2, 2, 2):
        fractions[classes[a::2, b::2, c::2].ravel(), every] += 0.125
        inside += 0.125 * brain[a::2, b::2, c::2].ravel()
    return fractions.reshape(-1, i, j, k), inside.reshape(i, j, k)


def _draw_scan(
    rng: Generator, fractions: Floats, brain: Floats
) -> tuple[Volume, Volume]:
    """Draw an image of 2 mm; return it with the brain."""
    shape = brain.shape
    image = np.tensordot(draw_brightness(rng), fractions, 1).astype(np.float32)
    texture = rng.normal(0, rng.uniform(0, 0.12), [size // 2 for size in shape])
    for axis in range(3):
        texture = np.repeat(texture, 2, axis)
    image *= (1 + texture).astype(np.float32)
    kind = rng.random()
    if kind < 0.45:
        image = ndimage.gaussian_filter(image, rng.uniform(0.3, 0.8), truncate=2.5)
    elif kind < 0.7:
        image = blur(rng, image)
    image = image * _draw_coil(rng, shape)
    level = max(float(image[brain > 0.5].mean()), 1e-3)
    kind = rng.random()
    if kind < 0.05:  # no face
        _, j, k = np.indices(shape)
        in_front = j - shape[1] * rng.uniform(0.62, 0.8)
        image = image * (in_front <= (k - shape[2] / 2) * rng.uniform(0.6, 1.4))
    elif kind < 0.14:  # noise without signal, as of MP2RAGE
        bright = rng.uniform(0, 2 * level * rng.uniform(0.3, 1.3), shape)
        image = image * (1 - fractions[0]) + fractions[0] * bright
    image = add_noise(rng, image.astype(np.float32), level)
    return _cut_field(rng, image.astype(np.float32), brain)


def _cut_field(rng: Generator, image: Floats, brain: Floats) -> tuple[Volume, Volume]:
    """Place an image somewhere, with up to 48 mm cut off at each side."""
    cuts = rng.integers(0, 24, (2, 3)) * (rng.random((2, 3)) < 0.25)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = rng.uniform(-2, 2, 3)
    whole = Volume(brain, Geometry(brain.shape, affine))
    stop = np.array(image.shape) - cuts[1]
    part = np.ascontiguousarray(image[tuple(map(slice, cuts[0], stop))])
    affine = affine.copy()
    affine[:3, 3] += 2.0 * cuts[0]
    return Volume(part, Geometry(part.shape, affine)), whole


def _draw_coil(rng: Generator, shape: tuple[int, ...]) -> Floats:
    """Draw a bias field, in some brightest in the middle or at a side."""
    field = np.exp(smooth_field(rng, shape, 4, rng.uniform(0, 0.5)))
    if rng.random() < 0.2:
        places = rng.uniform(0, 1, 3) * shape
        lines = np.ogrid[tuple(map(slice, shape))]
        square = sum((2.0 * (a - b)) ** 2 for a, b in zip(lines, places, strict=True))
        field = field * (0.25 + np.exp(-square / (2 * rng.uniform(50, 110) ** 2)))
    return field.astype(np.float32)
