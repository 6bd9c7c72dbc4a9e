"""Steps of a recipe that change intensities, or find the voxels that count."""

__all__ = [
    "CorrectBias",
    "FindBrain",
    "KeepBlocks",
    "MarkNonzero",
    "Scale",
    "ScaleSlices",
    "Window",
    "ZScore",
]

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from brainfeat.configs import (
    JsonConfig,
    PositiveFloat,
    PositiveInt,
    Relation,
    check_fields,
)
from brainfeat.exceptions import VolumeError
from brainfeat.preprocessing.intensities import correct_bias
from brainfeat.preprocessing.scan_field import Flags, Floats, ScanField

_TINY = 1e-8


@dataclass(frozen=True, kw_only=True)
class FindBrain(JsonConfig):
    """Find the brain, and set the other voxels to zero or leave them.

    The recipe computes the mask, since it holds the user's.
    """

    remove: bool = True  # all but the brain

    def __post_init__(self) -> None:
        check_fields(self)

    def apply(self, field: ScanField) -> ScanField:
        """Remove what is not foreground."""
        if not self.remove or field.foreground is None:
            return field
        mask = field.foreground
        return field.map_values(lambda data: np.where(mask, data, np.float32(0)))


@dataclass(frozen=True, kw_only=True)
class MarkNonzero(JsonConfig):
    """Take the voxels that are not zero in a contrast as foreground."""

    def apply(self, field: ScanField) -> ScanField:
        """Return the field with this foreground."""
        nonzero = np.logical_or.reduce([data != 0 for data in field.contrasts])
        if not nonzero.any():
            raise VolumeError("expected voxels that are not zero, got none.")
        return replace(field, foreground=np.asarray(nonzero))


@dataclass(frozen=True, kw_only=True)
class KeepBlocks(JsonConfig):
    """Take the blocks as foreground whose voxels are all above a percentile."""

    block: tuple[PositiveInt, PositiveInt, PositiveInt]
    percentile: PositiveFloat = 10.0

    def __post_init__(self) -> None:
        check_fields(self)

    def apply(self, field: ScanField) -> ScanField:
        """Return the field with this foreground, by the first contrast."""
        data = field.first.astype(np.float64)
        above = data > np.percentile(data, self.percentile)
        counts = [n // b for n, b in zip(data.shape, self.block, strict=True)]
        shape = [part for pair in zip(counts, self.block, strict=True) for part in pair]
        kept = np.asarray(above.reshape(shape).all(axis=(1, 3, 5)))
        if not kept.any():
            raise VolumeError(
                f"expected blocks of {tuple(self.block)} voxels without background, "
                "got none."
            )
        foreground = kept
        for axis, times in enumerate(self.block):
            foreground = foreground.repeat(times, axis)
        return replace(field, foreground=foreground)


@dataclass(frozen=True, kw_only=True)
class CorrectBias(JsonConfig):
    """Correct the bias field by N4, within the foreground."""

    def apply(self, field: ScanField) -> ScanField:
        """Return the corrected field; voxels that are zero stay so."""

        def correct(data: Floats) -> NDArray[np.float32]:
            inside = data != 0
            if field.foreground is not None:
                inside &= field.foreground
            return np.where(inside, correct_bias(data, inside, field.geometry), data)

        return field.map_values(correct)


@dataclass(frozen=True, kw_only=True)
class Window(JsonConfig):
    """Map two percentiles of a volume to two values, and clip there."""

    percentiles: tuple[float, float]
    values: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_fields(self, _window_relations)

    def apply(self, field: ScanField) -> ScanField:
        """Return the field with intensities within the two values."""
        return field.map_values(self._map)

    def _map(self, data: Floats) -> NDArray[np.float32]:
        low, high = np.percentile(data, self.percentiles).astype(np.float64)
        if not high > low:
            raise VolumeError(
                f"expected contrast between percentiles {self.percentiles}, got "
                f"{low:g} at both."
            )
        smallest, largest = self.values
        factor = (largest - smallest) / (high - low)
        scaled = (data - np.float32(low)) * np.float32(factor) + np.float32(smallest)
        return np.asarray(scaled.clip(np.float32(smallest), np.float32(largest)))


@dataclass(frozen=True, kw_only=True)
class ZScore(JsonConfig):
    """Subtract the mean of some voxels and divide by their standard deviation.

    The others stay as they are, or are set to zero if the foreground is taken.
    """

    voxels: Literal["nonzero", "foreground"] = "nonzero"

    def __post_init__(self) -> None:
        check_fields(self)

    def apply(self, field: ScanField) -> ScanField:
        """Return the field with z-scores."""
        return field.map_values(lambda data: self._standardise(data, field.foreground))

    def _standardise(self, data: Floats, foreground: Flags | None) -> Floats:
        is_used = data != 0
        if self.voxels == "foreground" and foreground is not None:
            is_used = foreground
        values = data[is_used].astype(np.float64)
        if not values.size or not values.std() > 0:
            raise VolumeError("expected contrast within the brain, got one value.")
        scores = np.zeros(data.shape, np.float32)
        scores[is_used] = (values - values.mean()) / values.std()
        return scores


@dataclass(frozen=True, kw_only=True)
class Scale(JsonConfig):
    """Subtract and divide by constants of the authors."""

    mean: float
    sd: PositiveFloat

    def __post_init__(self) -> None:
        check_fields(self)

    def apply(self, field: ScanField) -> ScanField:
        """Return the scaled field."""
        return field.map_values(
            lambda data: (data - np.float32(self.mean)) / np.float32(self.sd)
        )


@dataclass(frozen=True, kw_only=True)
class ScaleSlices(JsonConfig):
    """Map the lowest and highest value of each slice of the last axis to 0 and 1."""

    def apply(self, field: ScanField) -> ScanField:
        """Return the field; a slice of one value becomes 0."""

        def scale(data: Floats) -> NDArray[Any]:
            low = data.min(axis=(0, 1), keepdims=True)
            spread = data.max(axis=(0, 1), keepdims=True) - low
            return np.asarray((data - low) / np.maximum(spread, np.float32(_TINY)))

        return field.map_values(scale)


def _window_relations(step: Window) -> Iterator[Relation]:
    lower, upper = step.percentiles
    yield 0 <= lower < upper <= 100, "percentiles", "lower < upper in [0, 100]"
    smallest, largest = step.values
    yield smallest < largest, "values", "two values, the smaller first"
