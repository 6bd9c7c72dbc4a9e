"""Synthesise heads of any contrast from label maps, with the exact brain.

Brightness of every tissue, field of view, resolution, coil, noise and skull strip are
drawn at random, so that a network that learns from the images depends on none of them.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

Floats = NDArray[np.float32]
Generator = np.random.Generator

SHAPE = (48, 56, 48)  # voxels of 4 mm
N_CLASSES = 18
# Of air, white matter, cortex, ventricles, outer fluid, white matter and cortex of the
# cerebellum, thalamus, basal ganglia, pallidum, brain stem, hippocampus, vessels,
# cortical bone, marrow, muscle, fat and the rest of the head.
CONTRASTS = {
    "T1w": "0 1 .7 .22 .2 1 .65 .85 .75 .9 .92 .7 .6 .05 .6 .55 .9 .4",
    "T2w": "0 .35 .5 1 1 .35 .5 .42 .45 .35 .4 .5 .5 .03 .3 .25 .5 .4",
    "FLAIR": "0 .62 .8 .12 .15 .62 .78 .7 .75 .6 .65 .82 .6 .04 .4 .4 .6 .4",
    "PDw": "0 .6 .75 .8 .85 .6 .75 .68 .7 .6 .62 .75 .6 .05 .5 .5 .8 .5",
}
CONTRAST_WEIGHTS = (0.35, 0.35, 0.18, 0.12)
_FLUID, _BONE, _MARROW, _FAT = 4, 13, 14, 16


@dataclass(frozen=True)
class LabelledHead:
    """A head of 1 mm in RAS order."""

    classes: NDArray[np.uint8]
    brain: NDArray[np.bool_]  # with the fluid around it
    to_template: NDArray[np.float64]  # voxel index to template mm

    @cached_property
    def middle(self) -> NDArray[np.float64]:
        """Centre of the brain, as an index."""
        return np.array(ndimage.center_of_mass(self.brain))


def draw_anatomy(
    rng: Generator, heads: list[LabelledHead]
) -> tuple[NDArray[np.uint8], Floats, Floats]:
    """Deform a head; return classes and brain at 2 mm, and template mm of 8 mm."""
    head = heads[rng.integers(len(heads))]
    shape = 2 * np.array(SHAPE)
    turn = Rotation.from_rotvec(rng.normal(size=3) * [0.22, 0.12, 0.12]).as_matrix()
    linear = turn @ np.diag(np.exp(rng.normal(0, 0.09) + rng.normal(0, 0.05, 3)))
    if rng.random() < 0.15:  # a child's
        linear = linear * np.exp(rng.uniform(0.0, 0.25))
    mirror = np.diag([rng.choice([-1.0, 1.0]), 1.0, 1.0])
    shift = rng.normal(size=3) * [12, 16, 16] + [0, 2, 8]
    points = 2.0 * (np.indices(shape).reshape(3, -1) - (shape[:, None] - 1) / 2.0)
    points = points - shift[:, None]
    amplitude = rng.uniform(0, 5)
    points += np.stack(
        [smooth_field(rng, tuple(shape), 5, amplitude).ravel() for _ in range(3)]
    )
    voxels = (linear @ mirror @ points + head.middle[:, None]).reshape(3, *shape)
    sample = {"order": 0, "mode": "constant", "cval": 0}
    classes = ndimage.map_coordinates(head.classes, voxels, **sample)
    brain = ndimage.map_coordinates(head.brain.view(np.uint8), voxels, **sample)
    i, j, k = shape // 4
    if rng.random() < 0.3:
        classes = shrink(rng, classes, brain > 0)
    centres = voxels.reshape(3, i, 4, j, 4, k, 4).mean(axis=(2, 4, 6)).reshape(3, -1)
    template = head.to_template[:3, :3] @ centres + head.to_template[:3, 3:]
    template = (mirror @ template).reshape(3, i, j, k).astype(np.float32)
    return classes, brain.astype(np.float32), template


def shrink(
    rng: Generator, classes: NDArray[np.uint8], brain: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Widen the fluid around and within a brain, as in atrophy."""
    middle = np.array(ndimage.center_of_mass(brain))
    factor = rng.uniform(1.0, 1.1)
    shrunk = ndimage.affine_transform(
        classes, np.full(3, factor), middle * (1 - factor), order=0
    )
    outside = (shrunk == 0) | (shrunk >= _BONE)
    shrunk = np.where(outside, _FLUID, shrunk)
    if rng.random() < 0.5:
        wide = ndimage.binary_dilation(shrunk == 3, iterations=rng.integers(1, 4))
        shrunk = np.where(wide & (shrunk != _FLUID), 3, shrunk)
    return np.where(brain, shrunk, classes).astype(np.uint8)


def draw_image(
    rng: Generator, classes: NDArray[np.uint8], brain: Floats
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Draw an image of 4 mm in 0 to 1; also return the brain and the field of view."""
    truth = halve(brain)
    image = draw_brightness(rng)[classes]
    image = image * (1 + rng.normal(0, rng.uniform(0, 0.12), image.shape))
    image = halve(blur(rng, image.astype(np.float32))) * draw_coil(rng)
    level = max(float(image[truth > 0.5].mean()), 1e-3)
    kind = rng.random()
    if kind < 0.25:
        image = strip(rng, image, truth, level)
    elif kind < 0.3:
        image = image * ~draw_face(rng)
    elif kind < 0.38:  # noise without signal, as of MP2RAGE
        air = halve((classes == 0).astype(np.float32))
        bright = rng.uniform(0, 2 * level * rng.uniform(0.3, 1.3), image.shape)
        image = image * (1 - air) + air * bright
    if kind < 0.3 and rng.random() < 0.1:  # a constant around it
        image = np.where(image == 0, rng.uniform(-0.5, 1.5) * level, image)
    image = add_noise(rng, image, level)
    inside = draw_field_of_view(rng)
    return to_unit(rng, image, inside), truth, inside


def draw_nothing(rng: Generator) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Draw smoothed noise, which holds no brain."""
    inside = draw_field_of_view(rng)
    noise = ndimage.gaussian_filter(rng.random(SHAPE), rng.uniform(0, 3))
    return to_unit(rng, noise, inside), np.zeros(SHAPE, np.float32), inside


def blur(rng: Generator, image: Floats) -> Floats:
    """Blur an image of 2 mm as thick slices or large voxels do."""
    kind = rng.random()
    if kind < 0.25:  # slices of 4 or 6 mm, interpolated between
        axis, size = rng.integers(3), rng.integers(2, 4)
        start, count = rng.integers(size), image.shape[axis]
        moved = ndimage.uniform_filter1d(image, size, axis, mode="nearest")
        at = np.arange(count, dtype=np.float32)
        position = (at - start).clip(0) / size
        last = (count - 1 - start) // size
        lower = np.minimum(position.astype(int), max(last - 1, 0))
        part = np.clip(position - lower, 0, 1)
        part = part.reshape(np.where(np.arange(3) == axis, -1, 1))
        below, above = (
            np.take(moved, start + size * np.minimum(lower + step, last), axis)
            for step in (0, 1)
        )
        return np.asarray(below * (1 - part) + above * part)
    if kind < 0.4:
        widths = np.where(np.arange(3) == rng.integers(3), rng.uniform(0.5, 1.3), 0.0)
    elif kind < 0.55:
        widths = np.full(3, rng.uniform(0.3, 1.2))
    else:
        return image
    return np.asarray(ndimage.gaussian_filter(image, widths, truncate=2))


def add_noise(rng: Generator, image: Floats, level: float) -> Floats:
    """Add noise, in some as of magnitudes, and in some a constant."""
    kind = rng.random()
    if kind < 0.75:
        image = image + rng.normal(0, rng.uniform(0, 0.14) * level, image.shape)
    elif kind < 0.9:
        noise = rng.normal(0, rng.uniform(0, 0.12) * level, image.shape)
        image = np.sqrt(image**2 + noise**2)
    return image + (rng.uniform(0, 1) * level if rng.random() < 0.08 else 0.0)


def to_unit(rng: Generator, image: Floats, inside: NDArray[np.bool_]) -> Floats:
    """Scale the field of view to 0 to 1, with another brightness curve in some."""
    top = 99.5 if rng.random() < 0.75 else rng.uniform(97, 99.9)
    low, high = np.percentile(image[inside], [0.5, top])
    image = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    if rng.random() < 0.5:
        image = image ** np.exp(rng.normal(0, 0.3))
    return (image * inside).astype(np.float32)


def draw_face(rng: Generator) -> NDArray[np.bool_]:
    """Draw a plane that cuts the face off."""
    _, j, k = np.indices(SHAPE)
    in_front = j - SHAPE[1] * rng.uniform(0.62, 0.8)
    return in_front > (k - SHAPE[2] / 2) * rng.uniform(0.6, 1.4)


def draw_brightness(rng: Generator) -> Floats:
    """Draw the brightness of each class, near a usual contrast or far from all."""
    if rng.random() < 0.55:
        usual = CONTRASTS[rng.choice([*CONTRASTS], p=CONTRAST_WEIGHTS)].split()
        levels = np.array(usual, np.float32) + rng.normal(0, 0.08, N_CLASSES)
        if rng.random() < 0.2:  # little contrast in the brain
            middle = levels[1:3].mean()
            levels[1:3] += (middle - levels[1:3]) * rng.uniform(0.3, 1)
            levels[5:13] += (middle - levels[5:13]) * rng.uniform(0.3, 1)
        levels[_BONE:] *= np.exp(rng.normal(0, 0.4, N_CLASSES - _BONE))
        levels[_FAT] *= rng.choice([1.0, rng.uniform(1, 3)], p=[0.6, 0.4])
    else:
        levels = rng.uniform(0, 1, N_CLASSES)
        white, gray, fluid = levels[1:4]
        levels[4:7] = np.array([fluid, white, gray]) + rng.normal(0, 0.06, 3)
        levels[7:11] = white + (gray - white) * rng.uniform(-0.2, 1.1, 4)
        levels[11] = gray + rng.normal(0, 0.05)
        levels[_BONE] = rng.uniform(0, 0.35) * (white + gray) / 2
    levels[0] = rng.choice([0.0, rng.uniform(0, 0.25)], p=[0.8, 0.2])
    if rng.random() < 0.4:  # no marrow is seen
        levels[_MARROW] = levels[_BONE]
    return np.clip(levels, 0, None).astype(np.float32)


def draw_coil(rng: Generator) -> Floats:
    """Draw a bias field, in some brightest in the middle or at a side."""
    field = np.exp(smooth_field(rng, SHAPE, 4, rng.uniform(0, 0.6)))
    if rng.random() < 0.15:
        place = rng.uniform(0, 1, 3) * SHAPE
        square = sum(
            (4.0 * (axis - at)) ** 2
            for axis, at in zip(np.indices(SHAPE), place, strict=True)
        )
        field = field * (0.25 + np.exp(-square / (2 * rng.uniform(50, 110) ** 2)))
    return field.astype(np.float32)


def strip(rng: Generator, image: Floats, truth: Floats, level: float) -> Floats:
    """Cut the brain out, a little tight, wide, or without its darkest fluid."""
    kept = truth >= rng.uniform(0.1, 0.6)
    kind = rng.random()
    if kind < 0.3:
        kept = ndimage.binary_dilation(kept)
    elif kind < 0.45:
        kept &= image > rng.uniform(0.02, 0.2) * level
    return image * kept


def draw_field_of_view(rng: Generator) -> NDArray[np.bool_]:
    """Cut off up to 48 mm at each side, in some up to 64 mm of the top or bottom."""
    cuts = rng.integers(0, 12, (2, 3)) * (rng.random((2, 3)) < 0.35)
    if rng.random() < 0.2:
        cuts[rng.integers(2), 2] = rng.integers(4, 17)
    inside = np.zeros(SHAPE, dtype=bool)
    stop = np.array(SHAPE) - cuts[1]
    inside[tuple(map(slice, cuts[0], stop))] = True
    return inside


def reorder_axes(rng: Generator, *arrays: NDArray[np.generic]) -> list[NDArray]:
    """Turn arrays (..., I, J, K) to one of the 24 orders of axes, padded or cropped."""
    orders = [
        (axes, signs)
        for axes in permutations(range(3))
        for signs in product((1, -1), repeat=3)
        if np.linalg.det(np.diag(signs)[:, axes]) > 0
    ]
    axes, signs = orders[rng.integers(len(orders))]
    turned = []
    for array in arrays:
        lead = array.ndim - 3
        moved = array.transpose(*range(lead), *(lead + axis for axis in axes))
        moved = moved[(..., *(slice(None, None, sign) for sign in signs))]
        turned.append(_resize(moved, array.shape))
    return turned


def smooth_field(
    rng: Generator, shape: tuple[int, ...], n_knots: int, deviation: float
) -> Floats:
    """Draw a smooth random field."""
    knots = rng.normal(0, deviation, (n_knots,) * 3)
    for axis, size in enumerate(shape):
        position = np.linspace(0, n_knots - 1, size)
        start = np.minimum(position.astype(int), n_knots - 2)
        weight = (position - start).reshape(np.where(np.arange(3) == axis, -1, 1))
        weight = weight**2 * (3 - 2 * weight)
        first, second = (np.take(knots, start + step, axis) for step in (0, 1))
        knots = first * (1 - weight) + second * weight
    return knots.astype(np.float32)


def halve(data: NDArray[np.floating]) -> Floats:
    """Average blocks of two voxels along each axis."""
    i, j, k = (size // 2 for size in data.shape)
    blocks = data.reshape(i, 2, j, 2, k, 2)
    return blocks.mean(axis=(1, 3, 5), dtype=np.float32)


def _resize(array: NDArray, shape: tuple[int, ...]) -> NDArray:
    result = np.zeros(shape, array.dtype)
    source, target = [], []
    for size, wanted in zip(array.shape, shape, strict=True):
        common = min(size, wanted)
        source.append(slice((size - common) // 2, (size - common) // 2 + common))
        target.append(slice((wanted - common) // 2, (wanted - common) // 2 + common))
    result[tuple(target)] = array[tuple(source)]
    return result
