"""Apply the steps of a recipe that change intensities, or find the foreground."""

__all__ = ["INTENSITY_STEPS"]

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainfeat.exceptions import VolumeError
from brainfeat.preprocessing.intensities import correct_bias
from brainfeat.preprocessing.scan_field import Flags, Floats, ScanField
from brainfeat.preprocessing.steps import (
    CorrectBias,
    FindBrain,
    KeepBlocks,
    MarkNonzero,
    Scale,
    ScaleSlices,
    Window,
    ZScore,
)

_TINY = 1e-8


def _find_brain(field: ScanField, step: FindBrain) -> ScanField:
    """Remove what is not foreground."""
    if not step.remove or field.foreground is None:
        return field
    mask = field.foreground
    return field.map_values(lambda data: np.where(mask, data, np.float32(0)))


def _mark_nonzero(field: ScanField, _: MarkNonzero) -> ScanField:
    """Return the field with this foreground."""
    nonzero = np.logical_or.reduce([data != 0 for data in field.contrasts])
    if not nonzero.any():
        raise VolumeError("expected voxels that are not zero, got none.")
    return replace(field, foreground=np.asarray(nonzero))


def _keep_blocks(field: ScanField, step: KeepBlocks) -> ScanField:
    """Return the field with this foreground, by the first contrast."""
    data = field.first.astype(np.float64)
    above = data > np.percentile(data, step.percentile)
    counts = [n // b for n, b in zip(data.shape, step.block, strict=True)]
    shape = [part for pair in zip(counts, step.block, strict=True) for part in pair]
    kept = np.asarray(above.reshape(shape).all(axis=(1, 3, 5)))
    if not kept.any():
        raise VolumeError(
            f"expected blocks of {tuple(step.block)} voxels without background, "
            "got none."
        )
    foreground = kept
    for axis, times in enumerate(step.block):
        foreground = foreground.repeat(times, axis)
    return replace(field, foreground=foreground)


def _correct_bias(field: ScanField, _: CorrectBias) -> ScanField:
    """Return the corrected field; voxels that are zero stay so."""

    def correct(data: Floats) -> NDArray[np.float32]:
        inside = data != 0
        if field.foreground is not None:
            inside &= field.foreground
        return np.where(inside, correct_bias(data, inside, field.geometry), data)

    return field.map_values(correct)


def _window(field: ScanField, step: Window) -> ScanField:
    """Return the field with intensities within the two values."""
    return field.map_values(lambda data: _map_percentiles(data, step))


def _map_percentiles(data: Floats, step: Window) -> NDArray[np.float32]:
    low, high = np.percentile(data, step.percentiles).astype(np.float64)
    if not high > low:
        raise VolumeError(
            f"expected contrast between percentiles {step.percentiles}, got "
            f"{low:g} at both."
        )
    smallest, largest = step.values
    factor = (largest - smallest) / (high - low)
    scaled = (data - np.float32(low)) * np.float32(factor) + np.float32(smallest)
    return np.asarray(scaled.clip(np.float32(smallest), np.float32(largest)))


def _z_score(field: ScanField, step: ZScore) -> ScanField:
    """Return the field with z-scores."""
    foreground = field.foreground if step.voxels == "foreground" else None
    return field.map_values(lambda data: _standardise(data, foreground))


def _standardise(data: Floats, foreground: Flags | None) -> Floats:
    is_used = data != 0 if foreground is None else foreground
    values = data[is_used].astype(np.float64)
    if not values.size or not values.std() > 0:
        raise VolumeError("expected contrast within the brain, got one value.")
    scores = np.zeros(data.shape, np.float32)
    scores[is_used] = (values - values.mean()) / values.std()
    return scores


def _scale(field: ScanField, step: Scale) -> ScanField:
    """Return the scaled field."""
    return field.map_values(
        lambda data: (data - np.float32(step.mean)) / np.float32(step.sd)
    )


def _scale_slices(field: ScanField, _: ScaleSlices) -> ScanField:
    """Return the field; a slice of one value becomes 0."""

    def scale(data: Floats) -> NDArray[Any]:
        low = data.min(axis=(0, 1), keepdims=True)
        spread = data.max(axis=(0, 1), keepdims=True) - low
        return np.asarray((data - low) / np.maximum(spread, np.float32(_TINY)))

    return field.map_values(scale)


INTENSITY_STEPS: Mapping[type[Any], Callable[[ScanField, Any], ScanField]] = {
    FindBrain: _find_brain,
    MarkNonzero: _mark_nonzero,
    KeepBlocks: _keep_blocks,
    CorrectBias: _correct_bias,
    Window: _window,
    ZScore: _z_score,
    Scale: _scale,
    ScaleSlices: _scale_slices,
}
