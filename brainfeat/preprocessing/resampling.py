"""Resample volumes through an affine map in one interpolation.

SimpleITK samples in scanner coordinates as they are (RAS+): its own LPS convention only
matters for files, which it neither reads nor writes here. Every filter runs on one
thread and releases the interpreter lock, so that volumes can be processed in parallel.
"""

__all__ = [
    "TRUNCATE",
    "crop",
    "downsample",
    "find_sigmas",
    "reorient_to_ras",
    "resample",
    "resample_native",
    "run_on_one_thread",
    "to_sitk",
]

import math
from typing import Any, Literal

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

from brainfeat.preprocessing.separable import is_parallel, sample_parallel
from brainfeat.preprocessing.smoothing import smooth_axis
from brainfeat.volume import Geometry, Volume

Affine = NDArray[np.float64]
Indices = NDArray[np.intp]

# Gaussians of this width, relative to sqrt(ratio**2 - 1) source voxels, turn the point
# spread of a source voxel into that of a voxel `ratio` times as long.
_SIGMA_PER_FWHM = 1.0 / (2.0 * np.sqrt(2.0 * np.log(2.0)))
TRUNCATE = 3.0  # standard deviations, at which kernels end


def reorient_to_ras(volume: Volume) -> Volume:
    """Permute and flip array axes until they are closest to RAS, as a view."""
    affine = volume.geometry.affine
    orientation = nib.orientations.io_orientation(affine)
    data = nib.orientations.apply_orientation(volume.data, orientation)
    flips = nib.orientations.inv_ornt_aff(orientation, volume.data.shape)
    # Rounding removes errors of flipped origins, so that equal content gives equal
    # results.
    closest = np.round(affine @ flips, 9) + 0.0
    return Volume(data, Geometry(data.shape, closest), volume.path)


def to_sitk(volume: Volume) -> sitk.Image:
    """Copy a volume into a SimpleITK image in RAS+; booleans become uint8."""
    data = volume.data.view(np.uint8) if volume.data.dtype == bool else volume.data
    # SimpleITK needs the byte order of the machine.
    data = data.astype(data.dtype.newbyteorder("="), copy=False)
    image = sitk.GetImageFromArray(_to_fortran_order(data).T)
    affine, spacing = volume.geometry.affine, np.array(volume.geometry.spacing)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    return image


def crop(volume: Volume, start: ArrayLike, stop: ArrayLike) -> Volume:
    """Return the voxels from `start` to before `stop`, within the volume, as a view."""
    first = np.maximum(start, 0)
    data = volume.data[tuple(map(slice, first, np.asarray(stop)))]
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ first
    return Volume(data, Geometry(data.shape, affine), volume.path)


def downsample(
    volume: Volume, spacing: float, *, around: Geometry | None = None
) -> Volume:
    """Average blocks of voxels up to `spacing` mm, as float32 in Fortran order.

    Axes that are coarser already are kept. Later sums do not depend on how the volume
    was stored. Blocks far from the grid `around` may be left out.
    """
    edges = zip(volume.geometry.spacing, volume.geometry.shape, strict=True)
    factors = [max(1, min(int(spacing / mm + 1e-3), size)) for mm, size in edges]
    if around is not None:
        start, stop = _reach(around, np.eye(4), volume)
        volume = crop(volume, start // factors * factors, -(-stop // factors) * factors)
    data: NDArray[np.float32] = volume.data.astype(np.float32, copy=False)
    for axis, factor in reversed([*enumerate(factors)]):
        # The slowest axis first, adding whole planes: five times as fast as
        # SimpleITK's filter with the copies that it needs.
        stop = data.shape[axis] // factor * factor
        summed, *others = (
            data[(slice(None),) * axis + (slice(offset, stop, factor),)]
            for offset in range(factor)
        )
        data = sum(others, summed)
    data = np.divide(data, np.float32(math.prod(factors)), order="F")
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ ((np.array(factors) - 1) / 2.0)
    affine[:3, :3] *= factors
    return Volume(data, Geometry(data.shape, affine))


def resample(
    volume: Volume,
    grid: Geometry,
    grid_to_scanner: Affine,
    *,
    interpolation: Literal["linear", "nearest"] = "linear",
    outside: float = 0.0,
) -> NDArray[Any]:
    """Sample a volume on a grid; returns its dtype in Fortran order.

    `grid_to_scanner` maps the grid's millimetres to the volume's. Linear interpolation
    takes float32 and smooths along axes that the grid samples more coarsely, against
    aliasing; use ``"nearest"`` for label maps and masks. Voxels outside the volume get
    `outside`.
    """
    if interpolation == "linear":
        to_scanner = grid_to_scanner @ grid.affine
        steps = np.linalg.norm(to_scanner[:3, :3], axis=0)
        volume = _crop_to_grid(volume, grid, grid_to_scanner)
        sigmas = find_sigmas(float(steps.min()) / np.array(volume.geometry.spacing))
        to_voxel = np.linalg.inv(volume.geometry.affine) @ to_scanner
        if volume.data.dtype == np.float32 and is_parallel(to_voxel, grid.shape):
            placed = to_voxel, grid.shape, sigmas, TRUNCATE
            return sample_parallel(volume.data, *placed, outside)
        volume = _smooth(volume, sigmas)
    # SimpleITK needs the fastest axis first and takes any affine.
    volume = _with_axes(volume, _memory_order(volume.data))
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(grid_to_scanner[:3, :3].ravel().tolist())
    transform.SetTranslation(grid_to_scanner[:3, 3].tolist())
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(list(grid.shape))
    resampler.SetOutputSpacing(list(grid.spacing))
    resampler.SetOutputOrigin(grid.affine[:3, 3].tolist())
    resampler.SetOutputDirection((grid.affine[:3, :3] / grid.spacing).ravel().tolist())
    resampler.SetTransform(transform)
    resampler.SetInterpolator(
        sitk.sitkLinear if interpolation == "linear" else sitk.sitkNearestNeighbor
    )
    resampler.SetDefaultPixelValue(outside)
    image = run_on_one_thread(resampler, to_sitk(volume))
    samples: NDArray[Any] = sitk.GetArrayFromImage(image).T
    return samples.view(bool) if volume.data.dtype == bool else samples


def resample_native(
    volume: Volume,
    native: Geometry,
    native_to_scanner: Affine,
    *,
    interpolation: Literal["linear", "nearest"] = "linear",
) -> NDArray[Any]:
    """Sample a volume as `resample` does, the same in any order of the grid's axes.

    Points on the very edge of the volume are inside or outside by rounding, which
    differs between orders: they are sampled in closest-RAS order.
    """
    blank = Volume(np.broadcast_to(np.float32(0.0), native.shape), native)
    grid = reorient_to_ras(blank).geometry
    samples = resample(volume, grid, native_to_scanner, interpolation=interpolation)
    orientations = (
        nib.orientations.io_orientation(affine)
        for affine in (grid.affine, native.affine)
    )
    back = nib.orientations.ornt_transform(*orientations)
    result: NDArray[Any] = nib.orientations.apply_orientation(samples, back)
    return result


def find_sigmas(ratios: Affine) -> Affine:
    """Return the smoothing, in voxels, before sampling at steps of `ratios` voxels."""
    sigmas = _SIGMA_PER_FWHM * np.sqrt(np.maximum(ratios**2 - 1.0, 0.0))
    # Kernels without neighbours are the identity: a ratio of one, up to rounding.
    return np.where(TRUNCATE * sigmas < 0.5, 0.0, sigmas)


def run_on_one_thread(image_filter: Any, *images: sitk.Image) -> Any:
    """Execute a SimpleITK filter on one thread, whatever the global setting."""
    image_filter.SetNumberOfThreads(1)
    image_filter.SetNumberOfWorkUnits(1)
    return image_filter.Execute(*images)


def _to_fortran_order(data: NDArray[Any]) -> NDArray[Any]:
    """Return an array in Fortran order, as SimpleITK needs it."""
    # The lines of a view of a larger array are often a power of two apart and share
    # cache lines. They are first copied close to each other, in memory order.
    if data.flags.f_contiguous:
        return data
    return np.asfortranarray(data.copy(order="K"))


def _memory_order(data: NDArray[Any]) -> NDArray[np.intp]:
    """Return the axes of an array, the fastest first."""
    return np.argsort(np.abs(data.strides), kind="stable")


def _with_axes(volume: Volume, order: NDArray[np.intp]) -> Volume:
    """Permute the axes of a volume, as a view."""
    data = volume.data.transpose(order)
    affine = volume.geometry.affine[:, [*order, 3]]
    return Volume(data, Geometry(data.shape, affine), volume.path)


def _crop_to_grid(volume: Volume, grid: Geometry, grid_to_scanner: Affine) -> Volume:
    """Crop to what the grid and the smoothing before it can reach."""
    return crop(volume, *_reach(grid, grid_to_scanner, volume))


def _reach(grid: Geometry, grid_to_scanner: Affine, volume: Volume) -> list[Indices]:
    """Return first and last (exclusive) voxels that smoothed samples depend on."""
    to_voxel = np.linalg.inv(volume.geometry.affine) @ grid_to_scanner @ grid.affine
    margin = np.ceil(2.0 * max(grid.spacing) / np.array(volume.geometry.spacing)) + 2.0
    corners = np.indices((2, 2, 2)).reshape(3, -1) * (np.array(grid.shape)[:, None] - 1)
    reached = to_voxel[:3, :3] @ corners + to_voxel[:3, 3:]
    sizes = np.array(volume.geometry.shape)
    start = np.clip(np.floor(reached.min(axis=1) - margin), 0, sizes - 1).astype(int)
    stop = np.clip(np.ceil(reached.max(axis=1) + margin), start + 1, sizes).astype(int)
    return [start, stop]


def _smooth(volume: Volume, sigmas: NDArray[np.float64]) -> Volume:
    if not sigmas.any():
        return volume
    # In memory order, but in a fixed order of axes, since sums are rounded.
    order = _memory_order(volume.data)[::-1]
    positions = np.argsort(order)
    smooth = np.ascontiguousarray(volume.data.transpose(order))
    for axis in np.flatnonzero(sigmas)[::-1]:
        sigma, across = float(sigmas[axis]), int(positions[axis])
        smooth = smooth_axis(smooth, sigma, across, TRUNCATE)
    return Volume(smooth.transpose(positions), volume.geometry)
