"""Other acquisitions of a real scan: drawn first, then applied."""

__all__ = ["Degradation", "DegradationConfig"]

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from brainfeat.configs import (
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    Relation,
    check_fields,
)
from brainfeat.preprocessing.foreground import find_flat_background
from brainfeat.preprocessing.resampling import reorient_to_ras, resample
from brainfeat.simulation.random_fields import SPLINE_SD, evaluate_spline
from brainfeat.simulation.slice_profiles import resample_axis
from brainfeat.volume import Geometry, Volume

Range = tuple[NonNegativeFloat, NonNegativeFloat]
_N_CONTROLS = 5  # of a smooth field, along each axis
_DARK = 0.12  # of the brightest tissue: where MP2RAGE divides noise by noise
_STRIPPED_RATIO = 1.4  # of what a stripped scan shows, to the brain that is found
_BRIGHT_PERCENTILE = 90.0


@dataclass(frozen=True, kw_only=True)
class DegradationConfig:
    """Ranges of the protocols of other scans, and how often each change occurs.

    Lengths are in mm, noise in parts of the brightest tissue.
    """

    thick: Fraction = 0.45  # thick slices in one direction
    slices: tuple[PositiveFloat, PositiveFloat] = (1.0, 8.0)
    gap: Range = (0.0, 0.3)  # between slices, as a fraction of their distance
    in_plane: tuple[PositiveFloat, PositiveFloat] = (0.5, 3.0)
    isotropic: Fraction = 0.3  # larger voxels
    voxels: tuple[PositiveFloat, PositiveFloat] = (1.0, 4.0)
    tilted: Fraction = 0.25
    tilt: NonNegativeFloat = 15.0  # largest angle, degrees
    interpolated: Fraction = 0.2  # stored with finer voxels than were acquired
    fine: tuple[PositiveFloat, PositiveFloat] = (0.7, 1.5)
    stripped: Fraction = 0.4
    mask_margin: tuple[float, float] = (-1.0, 4.0)  # around the brain that was found
    mask_error: NonNegativeFloat = 1.5  # standard deviation of the margin
    biased: Fraction = 0.4
    bias: Range = (0.05, 0.4)  # standard deviation of the log of the field
    high_field: Fraction = 0.1  # bright centre, as at 7 T
    center: Range = (0.2, 0.8)
    gamma: Fraction = 0.4
    gamma_sd: NonNegativeFloat = 0.2
    noisy: Fraction = 0.5
    noise: Range = (0.01, 0.12)
    mp2rage: Fraction = 0.06  # noise of full intensity where there is no signal
    cropped: Fraction = 0.2
    crop: tuple[Fraction, Fraction] = (0.0, 0.12)  # of the field of view, at an end

    def __post_init__(self) -> None:
        check_fields(self, _relations, allow_lists=True)


def _relations(config: DegradationConfig) -> Iterator[Relation]:
    names = ("slices", "gap", "in_plane", "voxels", "fine", "mask_margin")
    for name in (*names, "bias", "center", "noise", "crop"):
        low, high = getattr(config, name)
        yield low <= high, name, "the lower limit first"
    kinds = config.thick + config.isotropic
    yield kinds <= 1, "thick", "at most 1 together with isotropic"
    yield config.gap[1] < 1, "gap", "less than the distance of slices"
    yield config.crop[1] < 0.5, "crop", "less than half of the field of view"


@dataclass(frozen=True, eq=False)
class Degradation:
    """One protocol: everything random that turns a scan into another acquisition."""

    distances: tuple[float, float, float]  # between samples, R A S, mm; 0 as it is
    widths: tuple[float, float, float]  # that a sample averages over, mm
    softness: float  # of the edges of a slice profile, as a fraction of its width
    tilt: tuple[float, float, float]  # rotation vector, degrees
    fine: float  # voxels to which the scan is interpolated, mm; 0 for none
    mask_margin: float | None  # None if the head is kept
    mask_error: float
    bias: float
    center: float
    gamma: float
    noise: float
    is_mp2rage: bool
    crop: tuple[tuple[float, float], ...]  # at both ends of each axis
    seed: int  # of noise and fields

    @classmethod
    def draw(cls, config: DegradationConfig, generator: Generator) -> "Degradation":
        """Draw a protocol; every number is drawn, whether or not it is used."""

        def happens(probability: float) -> bool:
            return bool(generator.random() < probability)

        def within(limits: tuple[float, float]) -> float:
            return float(generator.uniform(*limits))

        distances, widths = _draw_sampling(config, generator)
        angles = generator.uniform(-config.tilt, config.tilt, 3)
        fine, margin = within(config.fine), within(config.mask_margin)
        gamma = math.exp(config.gamma_sd * generator.normal())
        crop = _draw_crop(config, generator)
        return cls(
            distances=distances,
            widths=widths,
            softness=within((0.0, 0.5)),
            tilt=_as_triple(angles) if happens(config.tilted) else (0.0, 0.0, 0.0),
            fine=fine if happens(config.interpolated) else 0.0,
            mask_margin=margin if happens(config.stripped) else None,
            mask_error=config.mask_error,
            bias=within(config.bias) if happens(config.biased) else 0.0,
            center=within(config.center) if happens(config.high_field) else 0.0,
            gamma=gamma if happens(config.gamma) else 1.0,
            noise=within(config.noise) if happens(config.noisy) else 0.0,
            is_mp2rage=happens(config.mp2rage),
            crop=crop if happens(config.cropped) else 3 * ((0.0, 0.0),),
            seed=int(generator.integers(2**62)),
        )

    @property
    def description(self) -> str:
        """What was changed, in words, such as ``"1x1x5 mm, noise 0.04"``."""
        parts = []
        if any(self.distances):
            parts.append("x".join(f"{mm:.3g}" for mm in self.distances) + " mm")
        for name in ("bias", "center", "noise", "fine"):
            if value := getattr(self, name):
                parts.append(f"{name} {value:.2g}")
        for name, is_used in (
            ("tilted", any(self.tilt)),
            ("gamma", self.gamma != 1),
            ("mp2rage", self.is_mp2rage),
            ("cropped", any(map(any, self.crop))),
            ("stripped", self.mask_margin is not None),
        ):
            parts += [name] if is_used else []
        return ", ".join(parts) or "as it is"

    def apply(self, volume: Volume, brain: Volume | None = None) -> Volume:
        """Return the scan of a volume of non-negative intensities in this protocol.

        `brain` is the mask that a stripped scan keeps, with errors; without it the head
        is kept. The background of a scan that is stripped already stays as it is.
        """
        generator = np.random.default_rng(self.seed)
        volume = reorient_to_ras(volume)
        mask, error = self._mask(volume, brain, generator)
        data = volume.data.astype(np.float32)
        scale = _brightest(data)
        data = self._change_intensities(data, scale, generator)
        changed = self._resample(Volume(data, volume.geometry))
        data = self._add_noise(changed.data, scale, generator)
        if mask is not None:
            kept = resample(
                mask, changed.geometry, np.eye(4), interpolation="linear", outside=-1e3
            )
            data = np.where(kept > error, data, np.float32(0))
        return self._crop(Volume(data, changed.geometry, volume.path))

    def _mask(
        self, volume: Volume, brain: Volume | None, generator: Generator
    ) -> tuple[Volume | None, float]:
        """Return a map of the depth in what is kept, in mm, and its threshold."""
        if (outside := _stripped_background(volume, brain)) is not None:
            is_brain = (volume.data != outside).astype(np.float32)
            return Volume(is_brain, volume.geometry), 0.5
        if self.mask_margin is None or brain is None:
            return None, 0.0
        mask = reorient_to_ras(brain)
        is_brain, spacing = mask.data > 0, mask.geometry.spacing
        depth = ndimage.distance_transform_edt(is_brain, sampling=spacing)
        depth = depth - ndimage.distance_transform_edt(~is_brain, sampling=spacing)
        depth = depth + self.mask_error * _smooth_field(is_brain.shape, generator)
        return Volume(depth.astype(np.float32), mask.geometry), -self.mask_margin

    def _change_intensities(
        self, data: NDArray[Any], scale: float, generator: Generator
    ) -> NDArray[np.float32]:
        if self.gamma != 1:
            data = scale * np.power(np.maximum(data, 0) / scale, np.float32(self.gamma))
        if self.bias:
            data = data * np.exp(self.bias * _smooth_field(data.shape, generator))
        if self.center:
            axes = [np.linspace(-1, 1, n, dtype=np.float32) ** 2 for n in data.shape]
            i, j, k = np.ix_(*axes)
            data = data * (1 + self.center * np.exp(-2 * (i + j + k)))
        return np.asarray(data, dtype=np.float32)

    def _resample(self, volume: Volume) -> Volume:
        if any(self.tilt):
            volume = _tilt(volume, self.tilt)
        for axis in range(3):
            if self.distances[axis] > 1.05 * volume.geometry.spacing[axis]:
                volume = resample_axis(
                    volume,
                    axis,
                    distance=self.distances[axis],
                    width=self.widths[axis],
                    softness=self.softness,
                )
        return volume

    def _add_noise(
        self, data: NDArray[Any], scale: float, generator: Generator
    ) -> NDArray[np.float32]:
        if self.noise:
            noise = generator.normal(0, self.noise * scale, (2, *data.shape))
            data = np.hypot(data + noise[0], noise[1])  # Rician
        if self.is_mp2rage:
            signal = np.square(data)
            share = signal / (signal + (_DARK * scale) ** 2)
            random = generator.uniform(0, scale, data.shape)
            data = share * data + (1 - share) * random
        return np.asarray(data, dtype=np.float32)

    def _crop(self, volume: Volume) -> Volume:
        """Cut the ends off, and interpolate what is left."""
        shape = volume.data.shape
        start = [int(n * ends[0]) for n, ends in zip(shape, self.crop, strict=True)]
        stop = [n - int(n * end[1]) for n, end in zip(shape, self.crop, strict=True)]
        affine = volume.geometry.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ start
        data = volume.data[tuple(map(slice, start, stop))]
        volume = Volume(data, Geometry(data.shape, affine), volume.path)
        for axis in range(3) if self.fine else ():
            if volume.geometry.spacing[axis] > self.fine:
                volume = resample_axis(volume, axis, distance=self.fine)
        return volume


def _draw_sampling(
    config: DegradationConfig, generator: Generator
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Draw the distance of samples along each axis, and what each averages over."""
    kind, is_coarse = generator.random(2)
    axis = int(generator.choice([2, 2, 2, 0, 1]))  # most slices are axial
    thickness, in_plane, edge, gap = (
        float(generator.uniform(*limits))
        for limits in (config.slices, config.in_plane, config.voxels, config.gap)
    )
    if kind < config.thick:
        plane = in_plane if is_coarse < 0.5 else 0.0
        distances = [thickness if a == axis else plane for a in range(3)]
        widths = [(1 - gap) * thickness if a == axis else plane for a in range(3)]
    else:
        edge = edge if kind < config.thick + config.isotropic else 0.0
        distances = widths = [edge] * 3
    return _as_triple(distances), _as_triple(widths)


def _draw_crop(
    config: DegradationConfig, generator: Generator
) -> tuple[tuple[float, float], ...]:
    """Draw what is cut off the ends of one axis: little of the top of the head."""
    axis = int(generator.choice([2, 2, 0, 1]))
    low, high = (float(end) for end in generator.uniform(*config.crop, 2))
    ends = (low, high / 4 if axis == 2 else high)
    return tuple(ends if a == axis else (0.0, 0.0) for a in range(3))


def _brightest(data: NDArray[np.float32]) -> float:
    positive = data[data > 0]
    return float(np.percentile(positive, _BRIGHT_PERCENTILE)) if positive.size else 1.0


def _stripped_background(volume: Volume, brain: Volume | None) -> float | None:
    """Return the background of a skull-stripped scan; None for a head."""
    background = find_flat_background(volume.data)
    if background is None or brain is None:
        return background
    shown, found = (
        np.count_nonzero(is_inside) * np.prod(grid.spacing)
        for is_inside, grid in (
            (volume.data != background, volume.geometry),
            (brain.data, brain.geometry),
        )
    )
    # The air around a head may be flat, too.
    return background if shown < _STRIPPED_RATIO * found else None


def _smooth_field(shape: tuple[int, ...], generator: Generator) -> NDArray[np.float32]:
    """Draw a smooth field of mean 0 and standard deviation 1."""
    controls = generator.normal(size=(1, 1, *3 * [_N_CONTROLS])).astype(np.float32)
    i, j, k = ((_N_CONTROLS - 3) / size for size in shape)
    size_i, size_j, size_k = shape
    field = evaluate_spline(
        torch.from_numpy(controls / SPLINE_SD), (size_i, size_j, size_k), (i, j, k)
    )
    result: NDArray[np.float32] = field[0, 0].numpy()
    return result


def _tilt(volume: Volume, degrees: tuple[float, float, float]) -> Volume:
    """Sample a volume on a grid that is rotated about its centre."""
    x, y, z = np.deg2rad(degrees)
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = math.sqrt(x * x + y * y + z * z)
    # Rodrigues' formula.
    turn = np.eye(3) + np.sinc(angle / np.pi) * skew
    turn = turn + (1 - math.cos(angle)) / angle**2 * skew @ skew
    grid = volume.geometry
    affine = grid.affine.copy()
    affine[:3, :3] = turn @ affine[:3, :3]
    middle = (np.array(grid.shape) - 1) / 2
    affine[:3, 3] = grid.center - affine[:3, :3] @ middle
    tilted = Geometry(grid.shape, affine)
    return Volume(resample(volume, tilted, np.eye(4)), tilted, volume.path)


def _as_triple(values: object) -> tuple[float, float, float]:
    first, second, third = np.asarray(values, dtype=float).tolist()
    return first, second, third
