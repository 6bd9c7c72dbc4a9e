"""Repair, correct and standardise intensities."""

__all__ = ["clip_and_measure", "correct_bias", "repair", "standardise"]

import math
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from brainfeat.exceptions import VolumeError
from brainfeat.preprocessing.foreground import find_flat_background
from brainfeat.preprocessing.resampling import run_on_one_thread, to_sitk
from brainfeat.volume import Geometry, Volume

# Fraction of voxels that may be NaN or infinite; a brain fills half of its box.
_MAX_DAMAGED = 0.75
# Beyond these, sums or squares of intensities overflow float32.
_MAGNITUDES = (1e-9, 1e15)
# Fraction of the voxels that differ from a flat background that are darker, if it lies
# among the intensities; ringing around a stripped brain darkens up to a twentieth.
_MIN_DARKER = 0.1
_MIN_DIFFERENCE = 0.01  # of the intensity range, for a voxel to differ
# How far an intensity may lie outside the range of nearly all: air is about as much
# darker than fluid, and vessels are brighter than fat.
_BELOW, _ABOVE = 0.25, 3.0  # relative to that range
_MAX_FAR = 0.01  # fraction of voxels that may lie farther, such as one plane
_N_SAMPLED = 100_000  # voxels to estimate that range
_N4_SHRINK = 2
_N4_ITERATIONS = [30, 20, 10]
_N4_FLOOR = 1e-3  # of the highest intensity


def repair(volume: Volume) -> Volume:
    """Check intensities, and replace damaged ones by the lowest; float32.

    NaN, infinity and a flat background that lies among or above the intensities, such
    as the zeros around a brain of mean zero, become the lowest. Outliers, such as -1024
    around a scan without negative values, or one hot voxel, are clipped near the rest.
    """
    with np.errstate(over="ignore"):  # too large for float32 is infinite, too
        data = volume.data.astype(np.float32, copy=False)
    low, high = float(data.min()), float(data.max())
    # NaN and infinity show in the extremes: most volumes need no closer check.
    if not (math.isfinite(low) and math.isfinite(high)):
        data = _without_damage(data)
        low, high = float(data.min()), float(data.max())
    if low == high:
        raise VolumeError(f"expected contrast, got {low:g} everywhere.")
    data, low, high = _without_extremes(data, low, high)
    size = max(abs(low), abs(high))
    if not _MAGNITUDES[0] < size < _MAGNITUDES[1]:
        data = data / np.float32(size)
    return Volume(data, volume.geometry, volume.path)


def correct_bias(
    data: NDArray[np.float32], foreground: NDArray[np.bool_], grid: Geometry
) -> NDArray[np.float32]:
    """Divide by the bias field that N4 estimates in the foreground; all positive."""
    # Tustison et al., N4ITK: improved N3 bias correction, 2010,
    # doi:10.1109/TMI.2010.2046908
    # N4 takes logarithms, and bias multiplies: shift only if values are negative.
    positive = data - min(float(data.min()), 0.0)
    positive = np.maximum(positive, _N4_FLOOR * positive.max()).astype(np.float32)
    image = to_sitk(Volume(positive, grid))
    mask = to_sitk(Volume(foreground, grid))
    shrink = [_N4_SHRINK] * 3
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(_N4_ITERATIONS)
    run_on_one_thread(n4, sitk.Shrink(image, shrink), sitk.Shrink(mask, shrink))
    field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).T
    return np.asarray(positive / np.exp(field), dtype=np.float32)


def standardise(
    data: NDArray[Any], foreground: NDArray[np.bool_], percentiles: tuple[float, float]
) -> NDArray[np.float32]:
    """Clip at percentiles and z-score the foreground; the rest gets the lowest."""
    if data.flags.f_contiguous and not data.flags.c_contiguous:
        return standardise(data.T, foreground.T, percentiles).T  # in memory order
    clipped, mean, spread = clip_and_measure(data[foreground], percentiles)
    scores = np.full(data.shape, (clipped.min() - mean) / spread, dtype=np.float32)
    scores[foreground] = (clipped - mean) / spread
    return scores


def clip_and_measure(
    values: NDArray[Any], percentiles: tuple[float, float]
) -> tuple[NDArray[np.float64], np.float64, np.float64]:
    """Clip foreground intensities at percentiles; also return mean and deviation."""
    low, high = np.percentile(values, percentiles)
    clipped = np.clip(values, low, high).astype(np.float64, copy=False)
    mean, spread = clipped.mean(), clipped.std()
    if not spread > 0:
        raise VolumeError("expected contrast within the brain, got one value.")
    return clipped, mean, spread


def _without_damage(data: NDArray[np.float32]) -> NDArray[np.float32]:
    finite = np.isfinite(data)
    # NaN all around is a skull strip of some programs, no damage.
    boxes = ndimage.find_objects(finite.view(np.int8))
    damaged = 1.0 - finite[boxes[0]].mean() if boxes else 1.0
    if damaged > _MAX_DAMAGED:
        raise VolumeError(
            f"expected intensities, got {damaged:.0%} NaN or infinite voxels."
        )
    return np.where(finite, data, data[finite].min())


def _without_extremes(
    data: NDArray[np.float32], low: float, high: float
) -> tuple[NDArray[np.float32], float, float]:
    """Bring a flat background and outliers, and the extremes, near the others."""
    background = find_flat_background(data)
    step = math.ceil((data.size / _N_SAMPLED) ** (1 / 3))
    rest = data[::step, ::step, ::step]
    rest = rest[rest != background] if background is not None else rest
    if rest.size == 0:
        return data, low, high
    # Not the extremes, which one outlying voxel or plane determines.
    darkest, bright = np.percentile(rest, (0.1, 97.0)).astype(np.float64)
    spread = bright - darkest
    if spread == 0:
        return data, low, high
    step_size = _MIN_DIFFERENCE * spread
    if background is not None and _lies_among(background, rest, step_size):
        data = np.where(data == background, np.float32(darkest), data)
        low, high = float(data.min()), float(data.max())
    lowest, highest = darkest - _BELOW * spread, bright + _ABOVE * spread
    if lowest <= low and high <= highest:
        return data, low, high
    far = (data < lowest) | (data > highest)
    if background is not None:
        far &= data != background
    if np.count_nonzero(far) > _MAX_FAR * far.size:  # a small head in a large field
        return data, low, high
    data = data.clip(np.float32(lowest), np.float32(highest))
    return data, max(low, lowest), min(high, highest)


def _lies_among(background: float, rest: NDArray[np.float32], step: float) -> bool:
    n_darker = np.count_nonzero(rest < background - step)
    n_brighter = np.count_nonzero(rest > background + step)
    return bool(n_darker > _MIN_DARKER * (n_darker + n_brighter))
