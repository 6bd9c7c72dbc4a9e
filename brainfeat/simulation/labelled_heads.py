"""Heads of random people from whole-head label maps: draw, then apply.

As in SynthSeg [1]_, labels are deformed, and the intensity of each is drawn, so that
nothing of one scanner is learnt.

References
----------
.. [1] Billot et al., SynthSeg: segmentation of brain MRI scans of any contrast and
   resolution without retraining. Medical Image Analysis 86, 2023.
"""

__all__ = ["HeadAnatomy", "LabelledHead"]

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch.nn import functional as F

from brainfeat.exceptions import InputError
from brainfeat.io.volumes import read_labels
from brainfeat.preprocessing.resampling import reorient_to_ras
from brainfeat.simulation.head_labels import HeadLabels
from brainfeat.simulation.random_fields import SPLINE_SD, evaluate_spline

Floats = NDArray[np.float64]
Labels = NDArray[np.int16]

_ROTATION_SD = 0.1  # radians, about each axis
_SIZE_SD = 0.05  # of the head, and of each of its axes
_MARGIN = 6.0  # mm of air around the head
_HEIGHT = (180.0, 235.0)  # mm below the top of the head; less neck is shown
_LARGEST = 320.0  # mm, that deformations cover
# Distance of control points in mm, and range of the standard deviation of shifts in mm.
_WARPS = ((90.0, 0.5, 2.7), (40.0, 0.3, 1.6), (20.0, 0.0, 0.9))
_STRIDE = 2  # voxels between points of smooth fields
_ASYMMETRY = 0.25  # of the deviation of growth, between the sides


class _Growth(NamedTuple):
    """How far the surface of structures moves in mm; its surroundings follow."""

    structures: tuple[str, ...]
    mean: float
    sd: float
    reach: float


# Ventricles of label maps of the young are small.
_GROWTHS = (
    _Growth(("lateral_ventricle", "inferior_lateral_ventricle"), 0.5, 1.8, 9.0),
    _Growth(("hippocampus", "amygdala"), -0.1, 0.7, 5.0),
    _Growth(("caudate", "putamen", "pallidum"), 0.0, 0.5, 5.0),
    _Growth(("thalamus",), 0.0, 0.6, 6.0),
)


class _Surface(NamedTuple):
    """The direction out of a structure, near its surface, at every second voxel."""

    first: Floats  # voxel index of the first point
    normals: NDArray[np.float32]  # 3 i j k, in mm; shorter farther away


@dataclass(frozen=True, eq=False)
class LabelledHead:
    """The label map of a head, in RAS order."""

    labels: Labels
    spacing: Floats  # mm
    table: HeadLabels

    @classmethod
    def read(cls, path: Path, table: HeadLabels) -> "LabelledHead":
        """Read a label map of the head and all around it."""
        volume = reorient_to_ras(read_labels(path))
        values = volume.data
        if not np.isin(values, list(table.contrasts)).any() or values.max() > 32_000:
            raise InputError(
                f"{path}: expected labels of the table, got {values.min()} to "
                f"{values.max()}; is the table another one's?"
            )
        spacing = np.array(volume.geometry.spacing)
        return cls(np.ascontiguousarray(values, np.int16), spacing, table)

    @cached_property
    def box(self) -> tuple[Floats, Floats]:
        """First and last voxel of the head."""
        spans = ndimage.find_objects((self.labels > 0).astype(np.uint8))[0]
        first = np.array([float(span.start) for span in spans])
        return first, np.array([float(span.stop - 1) for span in spans])

    @cached_property
    def surfaces(self) -> dict[tuple[int, str], _Surface]:
        """Surfaces by growth and side, of structures that the label map has."""
        found = {}
        for number, growth in enumerate(_GROWTHS):
            for side in ("left", "right"):
                names = [f"{name}_{side}" for name in growth.structures]
                every_second = self.labels[::_STRIDE, ::_STRIDE, ::_STRIDE]
                inside = np.isin(every_second, self.table.find(names))
                if inside.any():
                    found[number, side] = self._find_surface(inside, growth.reach)
        return found

    def _find_surface(self, inside: NDArray[np.bool_], reach: float) -> _Surface:
        spacing = _STRIDE * self.spacing
        margins = np.ceil(2.5 * reach / spacing).astype(int)
        spans = ndimage.find_objects(inside.astype(np.uint8))[0]
        first = np.array([s.start for s in spans]) - margins
        first = np.maximum(first, 0)
        last = [s.stop + margin for s, margin in zip(spans, margins, strict=True)]
        box = tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
        near = inside[box]
        outer = ndimage.distance_transform_edt(~near, sampling=spacing)
        inner = ndimage.distance_transform_edt(near, sampling=spacing)
        distance = outer - inner
        smooth = ndimage.gaussian_filter(distance, 1.2)
        normals = np.stack(np.gradient(smooth, *spacing))
        normals *= np.exp(-((distance / reach) ** 2))
        return _Surface(first * float(_STRIDE), normals.astype(np.float32))


@dataclass(frozen=True, eq=False)
class HeadAnatomy:
    """A drawn head: its pose, size and shape."""

    linear: Floats  # 3 x 3, from mm of the new head to mm of the label map
    height: float  # mm that are shown
    warps: tuple[NDArray[np.float32], ...]  # control points of shifts, 3 i j k each
    growths: dict[tuple[int, str], float]  # mm, by growth and side
    is_mirrored: bool

    @classmethod
    def draw(cls, generator: Generator) -> "HeadAnatomy":
        """Draw a head, to be applied to any label map."""
        turn = Rotation.from_rotvec(generator.normal(0.0, _ROTATION_SD, 3)).as_matrix()
        sizes = generator.normal(0.0, _SIZE_SD, 3) + generator.normal(0.0, _SIZE_SD)
        return cls(
            linear=turn @ np.diag(np.exp(sizes)),
            height=generator.uniform(*_HEIGHT),
            warps=tuple(_draw_warps(generator)),
            growths=dict(_draw_growths(generator)),
            is_mirrored=bool(generator.random() < 0.5),
        )

    def apply(self, head: LabelledHead, spacing: float) -> Labels:
        """Deform a label map, onto voxels of `spacing` in mm around the head."""
        first, last = head.box
        margin = _MARGIN / head.spacing
        first, last = first - margin, last + margin
        first[2] = max(first[2], last[2] - self.height / head.spacing[2])
        # As large as the turned and scaled head.
        size = np.abs(np.linalg.inv(self.linear)) @ ((last - first) * head.spacing)
        shape = np.ceil(size / spacing).astype(int)
        points = self._find_points(head, (first + last) / 2.0, shape, spacing)
        labels = _look_up(head.labels, points)
        if self.is_mirrored:
            table = np.arange(labels.max() + 1, dtype=np.int16)
            for label, other in head.table.mirror.items():
                if label < len(table):
                    table[label] = other
            labels = table[labels[::-1]]
        return np.ascontiguousarray(labels)

    def _find_points(
        self, head: LabelledHead, middle: Floats, shape: Floats, spacing: float
    ) -> NDArray[np.float32]:
        """Return the voxel of the label map that each new voxel shows: (3, *shape)."""
        i, j, k = ((int(n) - 1) // _STRIDE + 2 for n in shape)
        step = _STRIDE * spacing
        points = np.indices((i, j, k)).reshape(3, -1) * step
        points -= (shape[:, None] - 1) / 2.0 * spacing
        points = (self.linear @ points).reshape(3, i, j, k)
        for (wavelength, *_), control in zip(_WARPS, self.warps, strict=True):
            steps = (step / wavelength,) * 3
            shifts = evaluate_spline(torch.from_numpy(control)[None], (i, j, k), steps)
            points += shifts[0].numpy()
        points = points / head.spacing[:, None, None, None]
        points += middle[:, None, None, None]
        for key, grown in self.growths.items():
            if (surface := head.surfaces.get(key)) is not None:
                _grow(points, surface, grown / head.spacing)
        return _refine(points, shape)


def _draw_warps(generator: Generator) -> Iterator[NDArray[np.float32]]:
    for wavelength, low, high in _WARPS:
        n_controls = int(_LARGEST / wavelength) + 4
        amplitude = generator.uniform(low, high) / SPLINE_SD
        control = generator.standard_normal((3, *[n_controls] * 3), dtype=np.float32)
        yield np.float32(amplitude) * control


def _draw_growths(generator: Generator) -> Iterator[tuple[tuple[int, str], float]]:
    for number, growth in enumerate(_GROWTHS):
        common = generator.normal(growth.mean, growth.sd)
        for side in ("left", "right"):
            yield (number, side), common + _ASYMMETRY * growth.sd * generator.normal()


def _grow(points: Floats, surface: _Surface, amount: Floats) -> None:
    """Move points near a surface against its normal, so that the inside grows."""
    indices = (points - surface.first[:, None, None, None]) / _STRIDE
    last = np.array(surface.normals.shape[1:])[:, None, None, None] - 1
    near = np.all((indices >= 0) & (indices <= last), axis=0)
    at = indices[:, near]
    for axis in range(3):
        normal = ndimage.map_coordinates(surface.normals[axis], at, order=1)
        points[axis][near] -= amount[axis] * normal


def _refine(points: Floats, shape: Floats) -> NDArray[np.float32]:
    """Interpolate points of every second voxel between them."""
    coarse = torch.from_numpy(points.astype(np.float32))[None]
    size = [_STRIDE * (n - 1) + 1 for n in coarse.shape[2:]]
    fine = F.interpolate(coarse, size, mode="trilinear", align_corners=True)[0]
    i, j, k = (int(n) for n in shape)
    return fine[:, :i, :j, :k].numpy()


def _look_up(labels: Labels, points: NDArray[np.float32]) -> Labels:
    """Return the nearest label of each point; 0 outside the label map."""
    nearest = np.rint(points).astype(np.int32)
    inside = np.ones(points.shape[1:], np.bool_)
    flat = np.zeros(points.shape[1:], np.int32)
    for axis, size in enumerate(labels.shape):
        inside &= (nearest[axis] >= 0) & (nearest[axis] < size)
        flat = flat * size + nearest[axis].clip(0, size - 1)
    return np.where(inside, labels.ravel()[flat], np.int16(0))
