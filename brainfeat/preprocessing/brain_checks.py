"""Reasons to doubt that a whole, adult brain was found as the header describes it.

The limits leave a margin around what real scans of adults show, by
examples/benchmarks/real_heads.py.
"""

__all__ = ["find_doubts"]

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brainfeat.preprocessing.alignment import Alignment
from brainfeat.preprocessing.axis_orders import (
    AxisOrder,
    axis_turns,
    guess_axis_orders,
    rank_axis_orders,
)
from brainfeat.preprocessing.brain_search import FoundBrain, find_brain
from brainfeat.preprocessing.head_model import load_depth
from brainfeat.preprocessing.resampling import downsample, reorient_to_ras
from brainfeat.preprocessing.template import load_template
from brainfeat.volume import Geometry, Volume

Floats = NDArray[np.float64]

_MIN_SIMILARITY = 0.91  # real scans have 0.935 and more, spheres 0.905
_MIN_OVERLAP = 0.885  # of the outlines, as a Dice coefficient
_SCALES = (0.77, 1.13)  # of the template, which is larger than most brains
_MILLILITRES = (820.0, 2600.0)
_MIN_IN_VIEW = 0.93  # of the template's brain
_MIN_BALANCE = 0.9  # smaller over larger half of the brain
_MIN_ORDER = 0.8  # similarity of another order of axes on the coarse grid
_MIN_LIKELY_ORDER = 0.75  # of what is found in a head that lies wrong; mostly 0.6
_MIN_FOUND_ORDER = 0.86  # of a brain that is found in that order; mostly 0.9
_MIN_GAIN = 0.05  # by another order of axes
_N_GUESSES = 2  # a fit takes as long as a tenth of the preprocessing
_MAX_SLICE = 9.0  # mm
_MAX_FLAT = 0.4  # of neighbouring voxels that are equal, along each axis
_DEEP = 6.0  # mm below the brain's surface, where neither skull nor air is near
_SHELL = (-7.0, -3.0)  # mm, between brain and scalp
_SHELL_HEIGHT = 20.0  # mm of the template, z: above the ears
_MAX_SHELL = 1.3  # brightness of the skull over the brain's
# White over grey matter, and white matter over fluid, each at least and at most.
_CONTRASTS = {
    "T1w": ((0.93, 9.0), (1.08, np.inf)),
    "T1ce": ((0.92, 9.0), (1.03, np.inf)),
    "T2w": ((0.0, 1.08), (0.0, 0.97)),
    "FLAIR": ((0.6, 1.6), (1.02, np.inf)),
}
_N_VOXELS = 20_000  # to compare with their neighbours


class _Points(NamedTuple):
    """Points of the template in mm, and what lies there."""

    inside: Floats  # (n, 3), in the brain
    depth: Floats  # (n,), mm below its surface
    tissues: Floats  # (3, n), weights of white matter, grey matter and fluid
    shell: Floats  # (m, 3), around the upper brain


def find_doubts(
    volume: Volume,
    alignment: Alignment,
    modality: str | None = None,
    header: str = "RAS",
) -> list[str]:
    """Return why the brain of a volume in closest-RAS order may not be whole or right.

    `alignment` is that of the volume. The contrast is checked for T1w, T1ce, T2w and
    FLAIR. `header` is the orientation of the file, in which another one is named.
    """
    brain = alignment.brain
    doubts = [*_doubt_slices(volume.geometry)]
    if brain is None:
        centred = "not aligned to the template, only centred"
        return [centred, *doubts, *_search_axes(volume, 0.0, [], header)]
    within = np.nan_to_num(_sample(brain.fraction, alignment, _load_points().inside))
    doubts += _doubt_fit(alignment, brain, within)
    doubts += _doubt_wholeness(volume, alignment, within)
    doubts += _doubt_voxels(volume, brain)
    axes = [*_doubt_axes(volume, alignment, brain, header)]
    if not doubts and not axes:
        # Tissues are only where they are expected if nothing else is wrong.
        doubts += _doubt_contrast(volume, alignment, modality)
    # Wrong axes explain the rest.
    return [*axes, *doubts]


def _doubt_slices(geometry: Geometry) -> Iterator[str]:
    thickest = max(geometry.spacing)
    if thickest > _MAX_SLICE:
        yield f"expected slices of at most {_MAX_SLICE:.0f} mm, got {thickest:.0f} mm"


def _doubt_fit(
    alignment: Alignment, brain: FoundBrain, within: Floats
) -> Iterator[str]:
    """Compare with the template; `within` is the fraction of brain at its points."""
    if alignment.similarity < _MIN_SIMILARITY:
        yield (
            f"expected tissues as in the template (similarity {_MIN_SIMILARITY}), got "
            f"{alignment.similarity:.2f}"
        )
    overlap = _measure_overlap(alignment, brain, within)
    if overlap < _MIN_OVERLAP:
        yield (
            f"expected the shape of a brain (overlap {_MIN_OVERLAP} with the "
            f"template), got {overlap:.2f}"
        )
    if not _SCALES[0] <= alignment.scale <= _SCALES[1]:
        yield (
            f"expected an adult's brain ({_SCALES[0]} to {_SCALES[1]} of the "
            f"template's size), got {alignment.scale:.2f}"
        )
    elif not _MILLILITRES[0] <= brain.ml <= _MILLILITRES[1]:
        low, high = _MILLILITRES
        yield f"expected a brain of {low:.0f} to {high:.0f} ml, got {brain.ml:.0f} ml"


def _measure_overlap(alignment: Alignment, brain: FoundBrain, within: Floats) -> float:
    """Return the Dice coefficient of the found brain and the fitted template."""
    found = float(brain.fraction.data.sum()) * _voxel_size(brain.fraction)
    template = len(within) * _POINT_SPACING**3 * alignment.scale**3
    common = float(within.mean()) * template
    return 2.0 * common / max(found + template, 1.0)


def _doubt_wholeness(
    volume: Volume, alignment: Alignment, within: Floats
) -> Iterator[str]:
    points = _load_points().inside
    voxels = _to_voxels(volume, alignment, points)
    last = np.array(volume.geometry.shape)[:, None] - 1
    in_view = float(((voxels >= 0) & (voxels <= last)).all(axis=0).mean())
    if in_view < _MIN_IN_VIEW:
        yield f"expected a whole brain, got {100 * in_view:.0f} % of it in the image"
    left, right = (
        float(within[points[:, 0] * side > _POINT_SPACING].mean()) for side in (-1, 1)
    )
    balance = min(left, right) / max(left, right, 1e-9)
    if balance < _MIN_BALANCE:
        name = "left" if left < right else "right"
        yield (
            f"expected two equal halves of the brain, got {100 * balance:.0f} % on "
            f"the {name}"
        )


def _doubt_voxels(volume: Volume, brain: FoundBrain) -> Iterator[str]:
    flat = _measure_flatness(volume, brain)
    if flat > _MAX_FLAT:
        yield (
            f"expected intensities of a scan, got {100 * flat:.0f} % equal neighbours, "
            "as in a label or probability map"
        )


def _measure_flatness(volume: Volume, brain: FoundBrain) -> float:
    """Return the fraction of equal neighbours in the brain, the least of the axes."""
    inside = np.argwhere(brain.fraction.data > 0.9)
    affine = brain.fraction.geometry.affine
    points = inside @ affine[:3, :3].T + affine[:3, 3]
    points = points[:: 1 + len(points) // _N_VOXELS]
    to_voxel = np.linalg.inv(volume.geometry.affine)
    voxels = np.rint(points @ to_voxel[:3, :3].T + to_voxel[:3, 3]).astype(int)
    is_within = (voxels >= 0) & (voxels < np.array(volume.data.shape) - 1)
    voxels = voxels[is_within.all(axis=1)]
    if not len(voxels):
        return 0.0
    values = volume.data[tuple(voxels.T)]
    return min(
        float(np.mean(volume.data[tuple((voxels + step).T)] == values))
        for step in np.eye(3, dtype=int)
    )


def _doubt_axes(
    volume: Volume, alignment: Alignment, brain: FoundBrain, header: str
) -> Iterator[str]:
    orders = rank_axis_orders(brain)
    best, usual = orders[0], _score_header(orders)
    if best.similarity > max(_MIN_ORDER, usual + _MIN_GAIN):
        yield _name_axes(header, best.axes, best.similarity, usual)
    elif best.axes != "RAS" or alignment.similarity < _MIN_SIMILARITY:
        # The brain itself may be wrong.
        likely = [best.axes] if best.similarity > _MIN_LIKELY_ORDER else []
        yield from _search_axes(volume, usual, likely, header)


def _search_axes(
    volume: Volume, usual: float, axes: list[str], header: str
) -> Iterator[str]:
    """Find the brain in these and in the likeliest other orders of axes, coarsely."""
    small = downsample(volume, 4.0)
    guesses = dict.fromkeys([*axes, *guess_axis_orders(small)])
    guesses.pop("RAS", None)
    best, best_axes = max(_MIN_FOUND_ORDER, usual + _MIN_GAIN), ""
    for name in [*guesses][:_N_GUESSES]:
        affine = np.eye(4)
        affine[:3, :3] = dict(axis_turns())[name].T
        geometry = Geometry(small.geometry.shape, affine @ small.geometry.affine)
        turned = reorient_to_ras(Volume(small.data, geometry))
        brain = find_brain(turned, turned, is_refined=False)
        similarity = 0.0 if brain is None else _score_header(rank_axis_orders(brain))
        if similarity > best:
            best, best_axes = similarity, name
    if best_axes:
        yield _name_axes(header, best_axes, best, usual)


def _score_header(orders: list[AxisOrder]) -> float:
    return next(order.similarity for order in orders if order.axes == "RAS")


def _name_axes(header: str, axes: str, similarity: float, usual: float) -> str:
    fitting = "".join(_in_header(direction, axes) for direction in header)
    return (
        f"the header says {header}, the image fits {fitting} better (similarity "
        f"{similarity:.2f}, not {usual:.2f})"
    )


def _in_header(direction: str, axes: str) -> str:
    """Return where the scanner's `direction` really points, in axes for R, A and S."""
    if direction in "RAS":
        return axes["RAS".index(direction)]
    return axes["LPI".index(direction)].translate(str.maketrans("RASLPI", "LPIRAS"))


def _doubt_contrast(
    volume: Volume, alignment: Alignment, modality: str | None
) -> Iterator[str]:
    points = _load_points()
    darkest = float(volume.data.min())
    is_deep = points.depth > _DEEP
    values = _sample(volume, alignment, points.inside[is_deep]) - darkest
    is_known = np.isfinite(values)
    weights, values = points.tissues[:, is_deep][:, is_known], values[is_known]
    white, gray, fluid = weights @ values / (weights.sum(axis=1) + 1e-9)
    shell = _sample(volume, alignment, points.shell) - darkest
    shell = shell[np.isfinite(shell)]
    middle = max(float(np.median(values)), 1e-12)
    if len(shell) and np.median(shell) > _MAX_SHELL * middle:
        yield "expected a dark skull, got a bright one, as in CT"
    elif modality in _CONTRASTS:
        ratios = white / max(gray, 1e-12), white / max(fluid, 1e-12)
        for name, ratio, (low, high) in zip(
            ("grey matter", "fluid"), ratios, _CONTRASTS[modality], strict=True
        ):
            if not low <= ratio <= high:
                yield (
                    f"expected the contrast of {modality}, got white matter "
                    f"{ratio:.2f} times as bright as {name}"
                )


_POINT_SPACING = 4.0  # mm


@cache
def _load_points() -> _Points:
    maps = (
        load_depth(),
        load_template("white_matter"),
        load_template("gray_matter"),
    )
    depth, white, gray = (downsample(each, _POINT_SPACING) for each in maps)
    affine = depth.geometry.affine
    points = np.argwhere(np.ones(depth.data.shape, bool)) @ affine[:3, :3].T
    points = points + affine[:3, 3]
    flat = depth.data.ravel().astype(np.float64)
    inside = flat >= 0.0
    tissues = np.stack([white.data.ravel()[inside], gray.data.ravel()[inside]])
    fluid = np.clip(1.0 - tissues.sum(axis=0), 0.0, 1.0)
    # Points of nearly one tissue count most.
    weights = np.vstack([tissues, fluid]).astype(np.float64) ** 4
    is_shell = (flat > _SHELL[0]) & (flat < _SHELL[1]) & (points[:, 2] > _SHELL_HEIGHT)
    return _Points(points[inside], flat[inside], weights, points[is_shell])


def _sample(volume: Volume, alignment: Alignment, points: Floats) -> Floats:
    """Return values at template points, NaN outside the volume."""
    voxels = _to_voxels(volume, alignment, points)
    values: Floats = ndimage.map_coordinates(
        volume.data, voxels, np.float64, order=1, cval=np.nan, prefilter=False
    )
    return values


def _to_voxels(volume: Volume, alignment: Alignment, points: Floats) -> Floats:
    to_voxel = np.linalg.inv(volume.geometry.affine) @ alignment.affine
    return np.asarray(to_voxel[:3, :3] @ points.T + to_voxel[:3, 3:])


def _voxel_size(volume: Volume) -> float:
    return float(abs(np.linalg.det(volume.geometry.affine[:3, :3])))
