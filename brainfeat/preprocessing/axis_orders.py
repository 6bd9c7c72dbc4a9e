"""Compare a brain with the template in every order of axes."""

__all__ = ["AxisOrder", "axis_turns", "guess_axis_orders", "rank_axis_orders"]

from functools import cache
from itertools import permutations, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from brainfeat.preprocessing.brain_search import FoundBrain
from brainfeat.preprocessing.foreground import find_head
from brainfeat.preprocessing.head_model import load_brain_model
from brainfeat.preprocessing.resampling import downsample
from brainfeat.volume import Volume

Floats = NDArray[np.float64]

_MODEL = (12.0, 12.0)  # spacing and reach in mm
_PITCHES = (-0.25, 0.0, 0.25)
_HEAD_SPACING = 8.0  # mm, where the axes of a whole head are guessed
_EDGE = 16.0  # mm, where a neck leaves the image


class AxisOrder(NamedTuple):
    """How well a brain fits the template if the scanner's axes are these."""

    axes: str  # anatomical directions of the scanner's x, y and z: "RAS" as it is
    similarity: float  # correlation with the template's tissues, on a coarse grid


def rank_axis_orders(brain: FoundBrain) -> list[AxisOrder]:
    """Score the 24 orders of axes that turn a brain, the most similar first.

    Mirrored orders are left out, since brains are almost symmetric.
    """
    model = load_brain_model(*_MODEL)
    weight = model.inside.sum()
    points = model.points - model.inside @ model.points / weight
    volume = float(brain.fraction.data.sum()) * np.prod(brain.fraction.geometry.spacing)
    points = points * np.cbrt(volume / (weight * _MODEL[0] ** 3))
    values = _sample_nearest(brain, np.stack(_turns()), points)
    values -= values.mean(axis=1, keepdims=True)
    norms = np.maximum(np.linalg.norm(values, axis=1), 1e-12)
    similarity = np.linalg.norm(values @ model.tissues, axis=1) / norms
    best = similarity.reshape(-1, len(_PITCHES)).max(axis=1)
    orders = [
        AxisOrder(_name(order), float(score))
        for order, score in zip(_orders(), best, strict=True)
    ]
    return sorted(orders, key=lambda order: -order.similarity)


def axis_turns() -> list[tuple[str, Floats]]:
    """Return the names of the 24 orders, with their maps from template to scanner."""
    return [(_name(order), order) for order in _orders()]


def guess_axis_orders(volume: Volume) -> list[str]:
    """Guess orders of axes of a whole head, the likeliest first, by its outer form.

    Its halves mirror each other along one axis of the scanner, and its neck leaves the
    image on one side of the others; front and back stay open.
    """
    small = downsample(volume, _HEAD_SPACING)
    across = int(np.argmax([_measure_mirror(small.data, axis) for axis in range(3)]))
    head = find_head(small.data)
    areas = {}
    for axis in {0, 1, 2} - {across}:
        for sign in (-1, 1):
            areas[axis, sign] = _measure_edge(small, head, axis, sign)
    guesses = []
    for axis, sign in sorted(areas, key=lambda side: -areas[side]):
        for name, order in axis_turns():
            if order[across, 0] and order[axis, 2] == -sign:
                guesses.append(name)
    return guesses


def _measure_mirror(data: NDArray[np.float32], axis: int) -> float:
    """Return the correlation with the mirror image, at the best plane."""
    planes = np.moveaxis(data, axis, 0).reshape(data.shape[axis], -1)
    planes = planes - planes.mean()
    products = planes @ planes.T
    n_planes, total = len(products), max(float(np.trace(products)), 1e-12)
    middle = n_planes // 2
    mirrored = products[:, ::-1]
    return max(float(np.trace(mirrored, k)) for k in range(-middle, middle + 1)) / total


def _measure_edge(
    volume: Volume, head: NDArray[np.bool_], axis: int, sign: int
) -> float:
    """Return the largest area of the head in the outermost slices of one side."""
    n_slices = max(1, round(_EDGE / volume.geometry.spacing[axis]))
    planes = np.moveaxis(head, axis, 0)
    known = np.flatnonzero(np.moveaxis(volume.data != 0.0, axis, 0).any(axis=(1, 2)))
    planes = planes[known] if len(known) else planes
    edge = planes[-n_slices:] if sign > 0 else planes[:n_slices]
    area = volume.geometry.spacing[axis - 1] * volume.geometry.spacing[axis - 2]
    return float(edge.sum(axis=(1, 2)).max()) * area


@cache
def _orders() -> list[Floats]:
    """Return the rotations that permute the axes, the identity first."""
    matrices = [
        np.diag(signs)[:, order].astype(np.float64)
        for order in permutations(range(3))
        for signs in product((1, -1), repeat=3)
    ]
    return [matrix for matrix in matrices if np.linalg.det(matrix) > 0]


def _turns() -> list[Floats]:
    return [order @ _pitch_rotation(pitch) for order in _orders() for pitch in _PITCHES]


def _pitch_rotation(pitch: float) -> Floats:
    cosine, sine = np.cos(pitch), np.sin(pitch)
    return np.array([[1.0, 0.0, 0.0], [0.0, cosine, -sine], [0.0, sine, cosine]])


def _name(order: Floats) -> str:
    """Name the template's direction along each axis of the scanner."""
    axes = np.abs(order).argmax(axis=1)
    return "".join(
        ("RAS" if order[row, axis] > 0 else "LPI")[axis]
        for row, axis in enumerate(axes)
    )


def _sample_nearest(brain: FoundBrain, turns: Floats, points: Floats) -> Floats:
    """Return the voxels at points (n, 3) in mm from the brain's centre: (m, n).

    The points are turned by each of `turns` (m, 3, 3).
    """
    data, grid = brain.tissue.data, brain.tissue.geometry
    to_voxel = np.linalg.inv(grid.affine)
    center = to_voxel[:3, :3] @ brain.center + to_voxel[:3, 3]
    voxels = to_voxel[:3, :3] @ turns @ points.T + center[:, None]
    # A margin of zeros stands for what is outside.
    padded = np.pad(data, 1)
    steps = np.array(padded.strides) // padded.itemsize
    indices = np.zeros((len(turns), len(points)))
    for axis, step in enumerate(steps):
        indices += step * np.rint(voxels[:, axis] + 1.0).clip(0, data.shape[axis] + 1)
    values = padded.ravel(order="K").take(indices.astype(np.intp))
    return np.asarray(values, dtype=np.float64)
