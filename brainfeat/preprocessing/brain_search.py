"""Find the brain in a head, before it is registered."""

__all__ = ["FoundBrain", "find_brain", "find_center", "find_edge"]

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brainfeat.preprocessing.brain_net import STRIDE, run_brain_net
from brainfeat.preprocessing.edge_net import EdgeInput, prepare_edge, refine_edge
from brainfeat.preprocessing.foreground import find_head
from brainfeat.preprocessing.morphology import bounds, dilate, largest_part
from brainfeat.preprocessing.resampling import crop, downsample, resample
from brainfeat.preprocessing.stripped import find_stripped
from brainfeat.volume import Geometry, Volume

_SPACING = 4.0  # mm, that of the network
_MARGIN = 6  # voxels around the brain that later steps look at
# mm: a head with its neck; a larger field of view is cropped.
_LARGEST = 256.0
# mm below the vertex; neck and shoulders do not locate the brain.
_HEAD_HEIGHT = 150.0
_CENTER_DEPTH = 85.0
_PERCENTILES = (0.5, 99.5)
_BIAS_WIDTH = 20.0  # mm, standard deviation of the local mean
_BRIGHTEST_PERCENTILE = 98.0  # brighter than nearly all of a brain: vessels
_TINY = 1e-12  # avoids division by zero
_MIN_ML = 100.0  # a smaller part is no brain
_MIN_BLOCKS = 30  # to fit a pose to


class FoundBrain(NamedTuple):
    """A brain in scanner space, on a grid of 4 mm that is parallel to its axes."""

    tissue: Volume  # intensities of the brain alone, without bias
    fraction: Volume  # of each voxel that is brain
    pose: NDArray[np.float64]  # roughly, template mm to scanner mm
    fine: Volume | None  # the same fraction on a finer grid; None of coarse volumes
    is_stripped: bool  # no head surrounds it
    in_view: Volume  # voxels of the head in the field of view

    @property
    def mask(self) -> Volume:
        """Fraction of each voxel that is brain, in the finest grid there is."""
        return self.fraction if self.fine is None else self.fine

    @property
    def center(self) -> NDArray[np.float64]:
        """Centre of mass, in scanner mm."""
        affine = self.fraction.geometry.affine
        data = self.fraction.data
        planes = ((1, 2), (0, 2), (0, 1))
        by_axis = [data.sum(axis=axes, dtype=np.float64) for axes in planes]
        indices = [np.arange(len(sums)) @ sums / sums.sum() for sums in by_axis]
        return np.asarray(affine[:3, :3] @ np.array(indices) + affine[:3, 3])

    @property
    def ml(self) -> float:
        """Volume of the brain with its fluid."""
        voxel = float(np.prod(self.mask.geometry.spacing))
        n_voxels = np.count_nonzero(self.mask.data >= 0.5)
        return n_voxels * voxel / 1e3


class _Rough(NamedTuple):
    """What the network says of a volume at 4 mm."""

    intensities: NDArray[np.float32]  # in 0 to 1
    limits: NDArray[np.float32]  # what was scaled to 0 and 1
    in_view: Volume
    fraction: Volume
    coordinates: NDArray[np.float32]  # template mm of blocks of two voxels


def find_brain(
    volume: Volume, small: Volume, *, is_refined: bool = True
) -> FoundBrain | None:
    """Find the brain in a volume in closest-RAS order; None if there is none.

    `small` is the volume downsampled to about 4 mm. The edge of the brain is refined
    unless that is not needed, or the volume is stripped.
    """
    rough = _find_roughly(small)
    if rough is None:
        return None
    fine = find_stripped(volume, small, rough.fraction)
    is_stripped = fine is not None
    if fine is None and _measure_ml(rough.fraction) >= _MIN_ML:
        rough = _crop_to_brain(rough)
        if is_refined:
            refined = refine_edge(_prepare_edge(volume, rough))
            fine = Volume(_largest_part(refined.data), refined.geometry)
    grid, fraction = rough.fraction.geometry, rough.fraction
    if fine is not None:
        averaged = resample(fine, grid, np.eye(4))
        fraction = Volume(np.ascontiguousarray(averaged), grid)
    if _measure_ml(fraction) < _MIN_ML:
        return None
    tissue = _cut_out(rough.intensities, fraction)
    pose = _fit_pose(fraction, rough.coordinates)
    return FoundBrain(tissue, fraction, pose, fine, is_stripped, rough.in_view)


def find_edge(volume: Volume) -> EdgeInput | None:
    """Return what the network that refines the edge sees of a head."""
    rough = _find_roughly(downsample(volume, _SPACING))
    if rough is None or _measure_ml(rough.fraction) < _MIN_ML:
        return None
    return _prepare_edge(volume, rough)


def find_center(volume: Volume) -> NDArray[np.float64]:
    """Return the middle of the upper head in mm; the volume is in closest-RAS order."""
    head = largest_part(find_head(volume.data))
    affine = volume.geometry.affine
    points = np.argwhere(head) @ affine[:3, :3].T + affine[:3, 3]
    top = np.percentile(points[:, 2], 99.8)
    points = points[points[:, 2] >= top - _HEAD_HEIGHT]
    low, high = np.percentile(points, [1.0, 99.0], axis=0)
    center: NDArray[np.float64] = (low + high) / 2.0
    center[2] = max(center[2], top - _CENTER_DEPTH)
    return center


def _find_roughly(small: Volume) -> _Rough | None:
    grid = _network_grid(small)
    sampled = resample(small, grid, np.eye(4), outside=np.nan)
    in_view = np.isfinite(sampled)
    if not in_view.any():  # a line or slice between the grid's voxels
        return None
    limits = np.percentile(sampled[in_view], _PERCENTILES).astype(np.float32)
    intensities = _scale(np.ascontiguousarray(sampled), limits)
    if not intensities.any():
        return None
    probabilities, coordinates = run_brain_net(intensities)
    fraction = Volume(_largest_part(probabilities), grid)
    view = Volume(in_view, grid)
    return _Rough(intensities, limits, view, fraction, coordinates)


def _crop_to_brain(rough: _Rough) -> _Rough:
    """Leave out what is farther from the brain than its edge and its blur reach."""
    first, last = bounds(rough.fraction.data > 0.0, _MARGIN)
    start, stop = np.array(first) // 2, -(np.array(last) // -2)  # whole blocks
    box, blocks = (tuple(map(slice, n * start, n * stop)) for n in (2, 1))
    near = crop(rough.fraction, 2 * start, 2 * stop)
    return rough._replace(
        intensities=np.ascontiguousarray(rough.intensities[box]),
        fraction=Volume(np.ascontiguousarray(near.data), near.geometry),
        coordinates=rough.coordinates[:, *blocks],
    )


def _prepare_edge(volume: Volume, rough: _Rough) -> EdgeInput:
    low, high = rough.limits.tolist()
    level = _measure_level(rough.intensities, rough.fraction)
    pose = _fit_pose(rough.fraction, rough.coordinates)
    return prepare_edge(volume, rough.fraction, level, (low, high), pose)


def _network_grid(small: Volume) -> Geometry:
    """Return a grid of 4 mm, parallel to the scanner's axes, around the head."""
    geometry = small.geometry
    corners = np.indices((2, 2, 2)).reshape(3, -1) * np.array(geometry.shape)[:, None]
    points = geometry.affine[:3, :3] @ (corners - 0.5) + geometry.affine[:3, 3:]
    low, high = points.min(axis=1), points.max(axis=1)
    if (high - low).max() > _LARGEST:
        center = find_center(downsample(small, 2.0 * _SPACING))
        half = _LARGEST / 2.0
        is_large = high - low > _LARGEST
        start = np.clip(center - half, low, np.maximum(high - _LARGEST, low))
        low = np.where(is_large, start, low)
        high = np.where(is_large, start + _LARGEST, high)
    # Up to an eighth of a voxel beyond it needs no further block.
    n_blocks = np.ceil((high - low) / (_SPACING * STRIDE) - 1.0 / 64.0)
    shape = (STRIDE * np.maximum(n_blocks, 1.0)).astype(int)
    affine = np.diag([_SPACING, _SPACING, _SPACING, 1.0])
    affine[:3, 3] = (low + high) / 2.0 - _SPACING * (shape - 1) / 2.0
    return Geometry(tuple(shape.tolist()), affine)


def _scale(
    sampled: NDArray[np.float32], limits: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Scale limits to 0 and 1; zero outside of the field of view."""
    low, high = limits
    # Exact where intensities are tiny; zeros where they are all equal.
    scaled = (sampled - low) / (high - low if high > low else np.float32(np.inf))
    in_view = np.isfinite(sampled)
    return np.where(in_view, scaled.clip(0.0, 1.0), np.float32(0.0))


def _measure_ml(fraction: Volume) -> float:
    return float(fraction.data.sum()) * _SPACING**3 / 1e3


def _largest_part(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keep the largest part, with its soft edge, and what it encloses."""
    result = np.zeros_like(probabilities)
    inside = probabilities >= 0.5
    box = tuple(map(slice, *bounds(inside, margin=1)))
    mask = largest_part(inside[box])
    outside, _ = ndimage.label(np.pad(~mask, 1, constant_values=True))
    holes = (outside != outside[0, 0, 0])[1:-1, 1:-1, 1:-1] & ~mask
    kept = np.where(dilate(mask), probabilities[box], np.float32(0.0))
    result[box] = np.where(holes, np.float32(1.0), kept)
    return result


def _measure_level(
    intensities: NDArray[np.float32], fraction: Volume
) -> NDArray[np.float32]:
    """Return the local mean of the brain's brightness."""
    grid, weights = fraction.geometry, fraction.data
    inside = intensities * weights
    overall = max(float(inside.sum() / weights.sum()), _TINY)
    coarse = [
        downsample(Volume(data, grid), 2.0 * _SPACING) for data in (inside, weights)
    ]
    sigma = _BIAS_WIDTH / (2.0 * _SPACING)
    total, weight = (
        ndimage.gaussian_filter(part.data, sigma, mode="constant", truncate=2.0)
        for part in coarse
    )
    # Where nearly all is dark, division would amplify noise.
    level = np.maximum(total / np.maximum(weight, 1e-3), 0.2 * overall)
    for axis in range(3):
        level = np.repeat(level, 2, axis)
    return np.asarray(ndimage.uniform_filter(level, 3, mode="nearest"))


def _cut_out(intensities: NDArray[np.float32], fraction: Volume) -> Volume:
    """Cut the brain out, divided by its local mean, the brightest voxels clipped."""
    weights = fraction.data
    even = intensities / _measure_level(intensities, fraction)
    brightest = np.percentile(even[weights > 0.5], _BRIGHTEST_PERCENTILE)
    cut_out = np.minimum(even, brightest) * weights
    return Volume(cut_out.astype(np.float32), fraction.geometry)


def _fit_pose(
    fraction: Volume, coordinates: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Fit an affine, template mm to scanner mm, to the coordinates in the brain."""
    blocks = downsample(fraction, 2.0 * _SPACING)
    weights = blocks.data.ravel().astype(np.float64)
    inside = np.flatnonzero(weights > 0.5)
    if len(inside) < _MIN_BLOCKS:
        inside = np.flatnonzero(weights > 0.0)
    affine = blocks.geometry.affine
    indices = np.unravel_index(inside, blocks.data.shape)
    points = np.stack(indices, axis=1) @ affine[:3, :3].T + affine[:3, 3]
    known = coordinates.reshape(3, -1)[:, inside].T.astype(np.float64)
    source = np.column_stack([known, np.ones(len(known))])
    solution = np.linalg.lstsq(source, points, rcond=None)[0]
    pose = np.eye(4)
    pose[:3] = solution.T
    return pose
