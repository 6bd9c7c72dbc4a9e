"""Volumes from one grid to another through an affine map, in one interpolation.

SimpleITK does the sampling. It is given scanner coordinates as they are (RAS+): its
own LPS convention only matters for files, which it neither reads nor writes here.
Every filter runs on one thread and releases the interpreter lock, so that volumes
can be processed side by side.
"""

__all__ = [
    "crop",
    "downsample",
    "reorient_to_ras",
    "resample",
    "run_on_one_thread",
    "to_sitk",
]

import math
from typing import Any, Literal

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from brainfeat.volume import Geometry, Volume

Affine = NDArray[np.float64]

# Gaussians of this width, relative to sqrt(ratio**2 - 1) source voxels, turn the point
# spread of a source voxel into that of a voxel `ratio` times as long.
_SIGMA_PER_FWHM = 1.0 / (2.0 * np.sqrt(2.0 * np.log(2.0)))
_TRUNCATE = 3.0


def reorient_to_ras(volume: Volume) -> Volume:
    """Permute and flip array axes until they grow to the right, front and top.

    Parameters
    ----------
    volume : Volume
        Volume stored in any orientation.

    Returns
    -------
    Volume
        A view of the same voxels, none interpolated. A volume gives the same values
        and the same affine in whichever orientation it was stored.
    """
    affine = volume.geometry.affine
    orientation = nib.orientations.io_orientation(affine)
    data = nib.orientations.apply_orientation(volume.data, orientation)
    flips = nib.orientations.inv_ornt_aff(orientation, volume.data.shape)
    # Rounding removes what is left of flipped origins, so that equal content stays
    # equal in all that follows.
    closest = np.round(affine @ flips, 9) + 0.0
    return Volume(data, Geometry(data.shape, closest), volume.path)


def to_sitk(volume: Volume) -> sitk.Image:
    """Copy a volume into a SimpleITK image that keeps RAS+ coordinates.

    Parameters
    ----------
    volume : Volume
        Volume with any invertible affine. Boolean data become uint8.

    Returns
    -------
    SimpleITK.Image
        Image whose physical points are scanner coordinates.
    """
    data = volume.data.view(np.uint8) if volume.data.dtype == bool else volume.data
    # SimpleITK takes no other byte order than the machine's.
    data = data.astype(data.dtype.newbyteorder("="), copy=False)
    image = sitk.GetImageFromArray(_to_fortran_order(data).T)
    affine, spacing = volume.geometry.affine, np.array(volume.geometry.spacing)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    return image


def crop(volume: Volume, start: ArrayLike, stop: ArrayLike) -> Volume:
    """Take the voxels of a box, as a view.

    Parameters
    ----------
    volume : Volume
        What to take them of.
    start, stop : array-like of int of shape (3,)
        First voxel along each axis, and the one after the last.

    Returns
    -------
    Volume
        As much of the box as the volume has.
    """
    first = np.maximum(start, 0)
    data = volume.data[tuple(map(slice, first, np.asarray(stop)))]
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ first
    return Volume(data, Geometry(data.shape, affine), volume.path)


def downsample(volume: Volume, spacing: float) -> Volume:
    """Average blocks of voxels until they are about as large as asked for.

    Parameters
    ----------
    volume : Volume
        Volume of intensities.
    spacing : float
        Edge length to reach without exceeding it, in millimetres.

    Returns
    -------
    Volume
        Means of whole blocks, as float32 in Fortran order: what is summed over them
        does not depend on how the volume was stored. Axes that are coarser already
        stay.
    """
    factors = [
        max(1, min(int(spacing / edge + 1e-3), size))
        for edge, size in zip(
            volume.geometry.spacing, volume.geometry.shape, strict=True
        )
    ]
    data = volume.data.astype(np.float32, copy=False)
    for axis, factor in reversed([*enumerate(factors)]):
        # The slowest axis first: whole planes are added. This is five times as fast
        # as SimpleITK's filter with the copies that it needs.
        stop = data.shape[axis] // factor * factor
        start, *others = (
            data[(slice(None),) * axis + (slice(offset, stop, factor),)]
            for offset in range(factor)
        )
        data = sum(others, start)
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
    """Sample a volume on a grid.

    Intensities are smoothed first along the axes that the grid samples more coarsely,
    as strongly as it takes to avoid aliasing.

    Parameters
    ----------
    volume : Volume
        What to sample. With linear interpolation, float32.
    grid : Geometry
        Where to sample, in the grid's own world.
    grid_to_scanner : ndarray of shape (4, 4)
        Maps the grid's world to the volume's, both in millimetres.
    interpolation : {"linear", "nearest"}
        ``"nearest"`` for label maps and masks, which are not smoothed.
    outside : float
        Value of grid voxels that lie outside the volume.

    Returns
    -------
    ndarray of shape ``grid.shape``
        Samples in the data type of the volume, in Fortran order.
    """
    steps = np.linalg.norm((grid_to_scanner @ grid.affine)[:3, :3], axis=0)
    if interpolation == "linear":
        volume = _crop_to_grid(volume, grid, grid_to_scanner)
        volume = _smooth_for_spacing(volume, float(steps.min()))
    # SimpleITK wants the fastest axis first, and takes any affine: nothing is turned.
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


def run_on_one_thread(image_filter: Any, *images: sitk.Image) -> Any:
    """Execute a SimpleITK filter on one thread, whatever the global setting is.

    Parameters
    ----------
    image_filter : SimpleITK filter object
        Any filter with its options set.
    *images : SimpleITK.Image
        What its ``Execute`` takes.

    Returns
    -------
    SimpleITK.Image
        What its ``Execute`` gives.
    """
    image_filter.SetNumberOfThreads(1)
    image_filter.SetNumberOfWorkUnits(1)
    return image_filter.Execute(*images)


def _to_fortran_order(data: NDArray[Any]) -> NDArray[Any]:
    """Lay out an array so that its first axis is the fastest, as SimpleITK needs it.

    The lines of a view of a larger volume are often a power of two apart, and so share
    a cache's places. They are first copied close to each other, as they lie.
    """
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
    """Drop voxels that neither the grid nor the smoothing before it can reach."""
    to_voxel = np.linalg.inv(volume.geometry.affine) @ grid_to_scanner @ grid.affine
    corners = np.indices((2, 2, 2)).reshape(3, -1) * (np.array(grid.shape)[:, None] - 1)
    reached = to_voxel[:3, :3] @ corners + to_voxel[:3, 3:]
    margin = np.ceil(2.0 * max(grid.spacing) / np.array(volume.geometry.spacing)) + 2.0
    shape = np.array(volume.geometry.shape)
    start = np.clip(np.floor(reached.min(axis=1) - margin), 0, shape - 1).astype(int)
    stop = np.clip(np.ceil(reached.max(axis=1) + margin), start + 1, shape).astype(int)
    return crop(volume, start, stop)


def _smooth_for_spacing(volume: Volume, spacing: float) -> Volume:
    ratios = spacing / np.array(volume.geometry.spacing)
    sigmas = _SIGMA_PER_FWHM * np.sqrt(np.maximum(ratios**2 - 1.0, 0.0))
    # What reaches no neighbour would be a copy: a ratio of one, but for rounding.
    sigmas = np.where(_TRUNCATE * sigmas < 0.5, 0.0, sigmas)
    if not sigmas.any():
        return volume
    # As it lies in memory, but axis after axis as for any other: sums are rounded.
    order = _memory_order(volume.data)[::-1]
    places = np.argsort(order)
    data = np.ascontiguousarray(volume.data.transpose(order))
    smooth = np.empty_like(data)
    for axis in np.flatnonzero(sigmas)[::-1]:
        ndimage.gaussian_filter1d(
            data,
            sigmas[axis],
            int(places[axis]),
            output=smooth,
            mode="nearest",
            truncate=_TRUNCATE,
        )
        data = smooth
    return Volume(smooth.transpose(places), volume.geometry)
