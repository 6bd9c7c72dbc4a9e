"""Apply the steps of a recipe that move voxels: alignment, resampling and crops."""

__all__ = ["SPATIAL_STEPS"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from brainfeat.exceptions import VolumeError
from brainfeat.preprocessing.resampling import resample, run_on_one_thread, to_sitk
from brainfeat.preprocessing.scan_field import ScanField
from brainfeat.preprocessing.steps import (
    Align,
    CropBox,
    CropForeground,
    CropToMultiple,
    Orient,
    PadOrCrop,
    RepeatSlices,
    Resize,
    SlicesFirst,
    Spacing,
)
from brainfeat.volume import Geometry, Volume


def _orient(field: ScanField, step: Orient) -> ScanField:
    """Return the field in this orientation."""
    return field.oriented(step.codes)


def _align(field: ScanField, step: Align) -> ScanField:
    """Sample the images as read, in one interpolation; 0 outside their field."""
    affine = np.diag([step.spacing, step.spacing, step.spacing, 1.0])
    affine[:3, 3] = step.origin
    grid = Geometry(step.shape, affine)
    to_scanner = field.alignment.rigid
    if step.mode == "affine":
        to_scanner = field.alignment.affine
    contrasts = tuple(resample(v, grid, to_scanner) for v in field.sources)
    return replace(field, contrasts=contrasts, geometry=grid, to_scanner=to_scanner)


def _spacing(field: ScanField, step: Spacing) -> ScanField:
    """Return the field at this spacing."""
    steps = np.array(step.spacing) / field.geometry.spacing
    sizes = np.array(field.geometry.shape)
    shape = np.round((sizes - 1) / steps + 1).astype(int)
    if np.allclose(steps, 1.0, atol=1e-3) and (shape == sizes).all():
        return field
    positions = [np.arange(n) * s for n, s in zip(shape, steps, strict=True)]
    return field.on_grid(
        lambda data: _interpolate(data, positions), np.diag([*steps, 1.0])
    )


def _resize(field: ScanField, step: Resize) -> ScanField:
    """Return the field with this shape."""
    sizes = field.geometry.shape
    if sizes == tuple(step.shape):
        return field
    steps = np.array(sizes) / np.array(step.shape)
    to_voxel = np.diag([*steps, 1.0])
    to_voxel[:3, 3] = (steps - 1.0) / 2.0
    pairs = [*zip(step.shape, sizes, strict=True)]
    if step.mode == "linear":
        centers = [_centers(n, size) for n, size in pairs]
        return field.on_grid(lambda data: _interpolate(data, centers), to_voxel)
    weights = [_area(n, size) for n, size in pairs]
    return field.on_grid(lambda data: _weigh(data, weights), to_voxel)


def _slices_first(field: ScanField, step: SlicesFirst) -> ScanField:
    """Return the field with slices first, then rows, then columns."""
    axis = _slice_axis(field.geometry)
    spacing = np.full(3, step.in_plane)
    spacing[axis] = step.thickness
    steps = spacing / field.geometry.spacing
    shape = (np.array(field.geometry.shape) / steps + 1e-9).astype(int)
    if shape.min() < 1:
        raise VolumeError(
            f"expected slices of at least {step.thickness:g} mm together, got "
            f"{field.geometry.shape} voxels of {field.geometry.spacing} mm."
        )
    respaced = field.on_grid(
        lambda data: _cubic(data, shape.tolist(), steps.tolist()),
        np.diag([*steps, 1.0]),
    )
    # Rows lie along the second axis of a plane, as in an array of ITK.
    order = [axis, *(other for other in (2, 1, 0) if other != axis)]
    if axis == 0:
        order = [0, 1, 2]
    to_voxel = np.zeros((4, 4))
    to_voxel[order, range(3)] = 1.0
    to_voxel[3, 3] = 1.0
    return respaced.on_grid(lambda data: data.transpose(order), to_voxel)


def _crop_foreground(field: ScanField, step: CropForeground) -> ScanField:
    """Return the field within the box."""
    inside = field.first > np.float32(step.above)
    start, stop = [], []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        hit = np.flatnonzero(inside.any(axis=others))
        if not hit.size:
            raise VolumeError(
                f"expected voxels above {step.above:g} to crop to, got none."
            )
        start.append(max(int(hit[0]) - step.margin, 0))
        stop.append(min(int(hit[-1]) + 1 + step.margin, inside.shape[axis]))
    box = tuple(map(slice, start, stop))
    return field.shifted(lambda data: data[box], start)


def _crop_box(field: ScanField, step: CropBox) -> ScanField:
    """Return the field within the box, which must lie in it."""
    if (np.array(step.stop) > field.geometry.shape).any():
        raise VolumeError(
            f"expected at least {tuple(step.stop)} voxels to crop, got "
            f"{field.geometry.shape}."
        )
    box = tuple(map(slice, step.start, step.stop))
    return field.shifted(lambda data: data[box], step.start)


def _pad_or_crop(field: ScanField, step: PadOrCrop) -> ScanField:
    """Return the field with this shape."""
    sizes, wanted = np.array(field.geometry.shape), np.array(step.shape)
    first = np.maximum(sizes // 2 - wanted // 2, 0)
    first = np.where(wanted < sizes, first, 0)
    missing = np.maximum(wanted - sizes, 0)
    before, after = missing // 2, missing - missing // 2
    box = tuple(map(slice, first, first + np.minimum(wanted, sizes)))
    margins = [*zip(before.tolist(), after.tolist(), strict=True)]

    def change(data: NDArray[Any]) -> NDArray[Any]:
        data = data[box]
        return np.pad(data, margins, mode=step.padding) if missing.any() else data

    return field.shifted(change, (first - before).tolist())


def _crop_to_multiple(field: ScanField, step: CropToMultiple) -> ScanField:
    """Return the field with as many voxels as whole blocks have."""
    sizes, block = np.array(field.geometry.shape), np.array(step.block)
    if (sizes < block).any():
        raise VolumeError(
            f"expected at least {tuple(step.block)} voxels, got {tuple(sizes)}."
        )
    start = sizes % block // 2
    box = tuple(map(slice, start, start + sizes // block * block))
    return field.shifted(lambda data: data[box], start.tolist())


def _repeat_slices(field: ScanField, step: RepeatSlices) -> ScanField:
    """Return the field with thinner voxels, each slice several times."""
    to_voxel = np.diag([1.0, 1.0, 1.0 / step.times, 1.0])
    to_voxel[2, 3] = (1.0 / step.times - 1.0) / 2.0
    return field.on_grid(lambda data: data.repeat(step.times, axis=2), to_voxel)


def _slice_axis(geometry: Geometry) -> int:
    spacing, sizes = geometry.spacing, geometry.shape
    # Rounded, since affines of the same scan differ in their last digits.
    if len({round(edge, 6) for edge in spacing}) == 1:
        return 0
    unique = [size for size in sizes if sizes.count(size) == 1]
    return sizes.index(min(unique)) if unique else int(np.argmax(spacing))


def _centers(n_out: int, size: int) -> NDArray[np.floating]:
    """Return where the centres of `n_out` new voxels lie among `size` voxels."""
    # Rounded as PyTorch does, with a fused product: it is part of the recipe.
    scale = np.float64(np.float32(size / n_out))
    positions = (np.arange(n_out) + 0.5) * scale - 0.5
    return positions.astype(np.float32)


def _interpolate(
    data: NDArray[Any], positions: Sequence[NDArray[np.floating]]
) -> NDArray[np.float32]:
    """Interpolate linearly at positions along each axis, clamped to the voxels."""
    if data.flags.f_contiguous and not data.flags.c_contiguous:
        return _interpolate(data.T, positions[::-1]).T  # in memory order
    # The axis that shrinks most comes first: later ones have less to do.
    for axis in sorted(range(3), key=lambda i: len(positions[i]) / data.shape[i]):
        size = data.shape[axis]
        inside = np.clip(positions[axis], 0, size - 1)
        lower = np.minimum(inside.astype(int), max(size - 2, 0))
        upper = np.minimum(lower + 1, size - 1)
        shape = [-1 if i == axis else 1 for i in range(3)]
        above = (inside - lower).astype(np.float32).reshape(shape)
        first, second = data.take(lower, axis), data.take(upper, axis)
        data = first * (np.float32(1.0) - above) + second * above
    return np.asarray(data, np.float32)


def _area(n_out: int, size: int) -> NDArray[np.float32]:
    """Return weights (n, size) of the mean over the voxels that a new one touches."""
    index = np.arange(n_out)
    start, stop = index * size // n_out, -(-(index + 1) * size // n_out)
    voxel = np.arange(size)
    inside = (voxel >= start[:, None]) & (voxel < stop[:, None])
    return np.asarray(inside / inside.sum(axis=1, keepdims=True), np.float32)


def _weigh(
    data: NDArray[Any], weights: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Multiply each axis of a volume by weights (n_out, n_in)."""
    if data.flags.f_contiguous and not data.flags.c_contiguous:
        return _weigh(data.T, weights[::-1]).T  # in memory order, without copies
    # The axis that shrinks most comes first: later products are smaller.
    for axis in sorted(range(3), key=lambda i: len(weights[i]) / data.shape[i]):
        matrix = weights[axis]
        if axis == 0:
            flat = matrix @ data.reshape(len(data), -1)
            data = flat.reshape(-1, *data.shape[1:])
        else:
            data = matrix @ data if axis == 1 else data @ matrix.T
    return data


def _cubic(
    data: NDArray[Any], shape: Sequence[int], steps: Sequence[float]
) -> NDArray[np.float32]:
    """Interpolate by cubic splines from the first voxel on; 0 outside the volume."""
    unit = Volume(np.asarray(data, np.float32), Geometry(data.shape, np.eye(4)))
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(list(shape))
    resampler.SetOutputSpacing(list(steps))
    resampler.SetInterpolator(sitk.sitkBSpline)
    image = run_on_one_thread(resampler, to_sitk(unit))
    return np.asarray(sitk.GetArrayFromImage(image).T)


SPATIAL_STEPS: Mapping[type[Any], Callable[[ScanField, Any], ScanField]] = {
    Orient: _orient,
    Align: _align,
    Spacing: _spacing,
    Resize: _resize,
    SlicesFirst: _slices_first,
    CropForeground: _crop_foreground,
    CropBox: _crop_box,
    PadOrCrop: _pad_or_crop,
    CropToMultiple: _crop_to_multiple,
    RepeatSlices: _repeat_slices,
}
