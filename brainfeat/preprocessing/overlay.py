"""Whether the other volumes of a subject lie on its first, and their registration."""

__all__ = ["Misfit", "Overlaid", "Overlay", "lay_over"]

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from brainfeat.preprocessing.brain_search import find_center
from brainfeat.preprocessing.mutual_information import (
    FEWEST_VOXELS,
    Levels,
    agree_on_sides,
    mutual_information,
    peak_ratio,
    to_levels,
)
from brainfeat.preprocessing.resampling import (
    crop,
    downsample,
    resample,
    run_on_one_thread,
    to_sitk,
)
from brainfeat.volume import Geometry, Volume

Affine = NDArray[np.float64]

_EDGE = 8.0  # mm around the brain, which show where it ends
_STEP = 12.0  # mm, of the shifts that are tried
# Volumes in place have 0.3 to 0.7, those 12 mm away 1.2 or more.
_MAX_PEAK_RATIO = 0.8
# Volumes in place have 0.3 to 0.9, mirrored ones -0.8 to 0.3.
_MIN_SIDES = 0.3
# Below it, a registration moves volumes in place, too.
_MAX_DISTANCE = 12.0  # mm, mean over the brain
_MIN_GAIN = 1.1  # of the information, by a registration
_MIN_FLIP_GAIN = 1.05
_FLIPS = ("left to right", "front to back", "upside down")
_SPACING = 4.0  # mm, edge of the voxels that are registered
_CENTER_SPACING = 8.0
_PITCHES = (-0.26, 0.0, 0.26)  # radians; heads nod more than they turn


class Overlaid(NamedTuple):
    """The other volumes of a subject on the grid."""

    sampled: dict[str, NDArray[np.float32]]
    moves: dict[str, Affine]  # the first's mm to another's, of those registered
    misfits: list[str]  # how volumes miss the first


def lay_over(
    volumes: Mapping[str, Volume],
    sampled: NDArray[np.float32],
    foreground: NDArray[np.bool_],
    placement: tuple[Geometry, Affine],
    *,
    coregister: bool,
) -> Overlaid:
    """Take all volumes but the first to the grid, and compare them with it.

    `sampled` and `foreground` are of the first. With `coregister`, the others are first
    registered to it.
    """
    (first, volume), *others = volumes.items()
    overlaid = Overlaid({}, {}, [])
    if not others:
        return overlaid
    grid, grid_to_scanner = placement
    overlay = Overlay.of(volume, sampled, foreground, placement)
    for name, other in others:
        move = overlay.coregister(other) if coregister else np.eye(4)
        voxels = resample(other, grid, move @ grid_to_scanner, outside=np.nan)
        misfit = overlay.describe_misfit(other, voxels, move)
        overlaid.sampled[name] = voxels
        if coregister:
            overlaid.moves[name] = move
        if misfit is not None:
            is_advised = misfit.is_mendable and not coregister
            advice = " (coregister aligns it)" if is_advised else ""
            overlaid.misfits.append(f"{name} {misfit.text} {first}{advice}")
    return overlaid


class Misfit(NamedTuple):
    """How a volume misses the first, and whether a registration mends it."""

    text: str  # to which the name of the first is added
    is_mendable: bool


class _Found(NamedTuple):
    """Where a volume was found: a map from the first's mm, and its information."""

    move: Affine
    information: float


@dataclass(frozen=True, eq=False)
class Overlay:
    """The brain in the first volume of a subject, for comparisons with others."""

    volume: Volume
    box: Geometry  # voxels around the brain, in mm of the grid
    grid_to_scanner: Affine
    levels: Levels  # of the volume in the box
    steps: tuple[slice, slice, slice]  # of the grid's voxels that are in the box

    @classmethod
    def of(
        cls,
        volume: Volume,
        sampled: NDArray[np.float32],
        foreground: NDArray[np.bool_],
        placement: tuple[Geometry, Affine],
    ) -> Self:
        """Take the surroundings of the brain from the first volume on the grid."""
        grid, grid_to_scanner = placement
        spacing = np.array(grid.spacing)
        margin = np.rint(_EDGE / spacing).astype(int)
        voxels = np.nonzero(foreground)
        start = np.maximum([axis.min() for axis in voxels] - margin, 0)
        stop = np.minimum([axis.max() + 1 for axis in voxels] + margin, grid.shape)
        # About 4 mm: more voxels would tell no more.
        factors = np.maximum(1, np.rint(_SPACING / spacing)).astype(int)
        i, j, k = map(slice, start, stop, factors)
        steps = (i, j, k)
        affine = grid.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ start
        affine[:3, :3] *= factors
        levels = to_levels(sampled[steps])
        return cls(
            volume, Geometry(levels.shape, affine), grid_to_scanner, levels, steps
        )

    def coregister(self, volume: Volume) -> Affine:
        """Return the rigid map from the first volume's mm to those of another."""
        return self._find(downsample(volume, _SPACING), np.eye(4)).move

    def describe_misfit(
        self, volume: Volume, sampled: NDArray[np.float32], move: Affine
    ) -> Misfit | None:
        """Say how a volume misses the first; None if it does not, or shows too little.

        `sampled` is the volume on the grid, after `move`.
        """
        levels = to_levels(sampled[self.steps])
        if not self._can_compare(levels):
            return None
        is_away = self._is_away(levels)
        # A scan in place may still be mirrored.
        if not is_away and agree_on_sides(self.levels, levels) >= _MIN_SIDES:
            return None
        small = downsample(volume, _SPACING)
        here = self._measure(small, move)
        best = self._find(small, move) if is_away else here
        flips = range(len(_FLIPS)) if is_away else (0,)
        axis, flipped = self._find_flip(small, flips)
        unflipped = max(best.information, here.information)
        if flipped.information > _MIN_FLIP_GAIN * unflipped:
            return Misfit(f"seems to be flipped {_FLIPS[axis]} against", False)
        if best.information <= _MIN_GAIN * here.information:
            return None
        return self._describe_move(best.move @ np.linalg.inv(here.move))

    def _can_compare(self, levels: Levels) -> bool:
        # A slice tells too little, and no overlap is an error of its own.
        n_known = np.count_nonzero(self.levels >= 0)
        return bool(n_known >= FEWEST_VOXELS and (levels >= 0).any())

    def _is_away(self, levels: Levels) -> bool:
        """Check cheaply whether a volume may lie elsewhere."""
        step = max(1, round(_STEP / max(self.box.spacing)))
        return peak_ratio(self.levels, levels, step) > _MAX_PEAK_RATIO

    def _find_flip(self, volume: Volume, axes: Iterable[int]) -> tuple[int, _Found]:
        """Flip a volume along the likeliest of some axes, and register it."""
        tried = []
        for axis in axes:
            flipped = Volume(np.flip(volume.data, axis), volume.geometry)
            tried.append((self._start(flipped, np.eye(4)), axis, flipped))
        start, axis, flipped = max(tried, key=lambda item: item[0].information)
        return axis, self._refine(flipped, start)

    def _find(self, volume: Volume, move: Affine) -> _Found:
        """Register a volume of about 4 mm from its place or from the heads' centres."""
        return self._refine(volume, self._start(volume, move))

    def _start(self, volume: Volume, move: Affine) -> _Found:
        centred = np.eye(4)
        centred[:3, 3] = _find_center(volume) - _find_center(self._small)
        starts = (start @ self._turn(p) for start in (move, centred) for p in _PITCHES)
        measured = [self._measure(volume, start) for start in starts]
        return max(measured, key=lambda found: found.information)

    def _refine(self, volume: Volume, start: _Found) -> _Found:
        found = self._measure(volume, self._register(volume, start.move))
        return max(start, found, key=lambda item: item.information)

    def _turn(self, pitch: float) -> Affine:
        """Return a rotation about the left-right axis through the brain's centre."""
        turn, center = np.eye(4), self._points.mean(axis=0)
        turn[:3, :3] = Rotation.from_rotvec([pitch, 0.0, 0.0]).as_matrix()
        turn[:3, 3] = center - turn[:3, :3] @ center
        return turn

    def _measure(self, volume: Volume, move: Affine) -> _Found:
        to_volume = move @ self.grid_to_scanner
        levels = to_levels(resample(volume, self.box, to_volume, outside=np.nan))
        return _Found(move, mutual_information(self.levels, levels))

    def _register(self, volume: Volume, start: Affine) -> Affine:
        """Refine a rigid map by mutual information."""
        fixed, moving = self._cropped, volume
        transform = sitk.Euler3DTransform()
        center = self._points.mean(axis=0)
        angles = Rotation.from_matrix(start[:3, :3]).as_euler("ZXY")
        transform.SetCenter(center.tolist())
        transform.SetRotation(*(float(angles[i]) for i in (1, 2, 0)))
        shift = start[:3, :3] @ center + start[:3, 3] - center
        transform.SetTranslation(shift.tolist())
        images = (sitk.Cast(to_sitk(v), sitk.sitkFloat32) for v in (fixed, moving))
        try:
            run_on_one_thread(_registration(transform), *images)
        except RuntimeError:  # no overlap, or too few voxels to smooth
            return start
        move = np.eye(4)
        move[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
        move[:3, 3] = center + transform.GetTranslation() - move[:3, :3] @ center
        return move

    @cached_property
    def _small(self) -> Volume:
        return downsample(self.volume, _SPACING)

    @cached_property
    def _cropped(self) -> Volume:
        """The first volume in the box."""
        small = self._small
        to_voxel = np.linalg.inv(small.geometry.affine)
        voxels = self._points @ to_voxel[:3, :3].T + to_voxel[:3, 3]
        start = np.floor(voxels.min(axis=0)).astype(int)
        stop = np.ceil(voxels.max(axis=0)).astype(int) + 1
        return crop(small, start, np.clip(stop, start + 1, small.geometry.shape))

    @property
    def _points(self) -> NDArray[np.float64]:
        """The corners of the box in scanner mm, of shape (8, 3)."""
        last = np.array(self.box.shape) - 1
        corners = np.indices((2, 2, 2)).reshape(3, -1).T * last
        to_scanner = self.grid_to_scanner @ self.box.affine
        return np.asarray(corners @ to_scanner[:3, :3].T + to_scanner[:3, 3])

    def _describe_move(self, move: Affine) -> Misfit | None:
        points = self._points
        # Half as far out: the corners of the box lie around the brain, not in it.
        points = (points + points.mean(axis=0)) / 2.0
        moved = points @ move[:3, :3].T + move[:3, 3]
        if np.linalg.norm(moved - points, axis=1).mean() < _MAX_DISTANCE:
            return None
        distance = np.linalg.norm((moved - points).mean(axis=0))
        angle = np.degrees(Rotation.from_matrix(move[:3, :3]).magnitude())
        turned = f" and {angle:.0f} degrees" if angle >= 5.0 else ""
        return Misfit(f"lies {distance:.0f} mm{turned} from", True)


def _find_center(volume: Volume) -> NDArray[np.float64]:
    return find_center(downsample(volume, _CENTER_SPACING))


def _registration(transform: Any) -> Any:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(4.0, 0.05, 40)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([4.0, 2.0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(transform, inPlace=True)
    return method
