"""Volumes from images and back: the only module that writes NIfTI."""

import logging
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from brainfeat.exceptions import GeometryError, VolumeError
from brainfeat.io.atomic import atomic_write
from brainfeat.io.image_files import ImageSource, read_grid, read_stored
from brainfeat.io.paths import expand_home
from brainfeat.io.stored_voxels import StoredVoxels
from brainfeat.volume import Geometry, Volume

__all__ = [
    "MEMORY_LIMIT",
    "read_labels",
    "read_volume",
    "split_volumes",
    "to_image",
    "to_image_like",
    "write_image",
    "write_volume",
]

_LOGGER = logging.getLogger(__name__)

# Bytes; a whole head at 0.5 mm needs less than half of it.
MEMORY_LIMIT = 4_000_000_000

# Level 1 is ten times faster than nibabel's default, and files are 10 % larger.
_GZIP_LEVEL = 1
# Millimetres. Other sizes come from a damaged header or other units, and smoothing
# would take hours.
_VOXEL_EDGES = (0.02, 100.0)
_LABEL_ROUNDING = 1e-6  # relative error of a label that a slope may cause


def read_volume(source: ImageSource, *, memory_limit: int = MEMORY_LIMIT) -> Volume:
    """Read one 3D volume of intensities.

    Parameters
    ----------
    source : path-like or nibabel image
        Any spatial image that nibabel opens, NRRD or MetaImage; the first bytes of a
        NIfTI file tell how it is compressed (gzip, zstd or not). A fourth axis is
        dropped if it holds one volume. The affine is the sform, else the qform, as
        nibabel chooses, in mm: micrometres and metres in the header are converted.
    memory_limit : int
        Bytes that the volume may need while it is read and prepared. A file whose
        header asks for more is refused before any voxel is read.

    Returns
    -------
    Volume
        Intensities as float32, with the header's slope and intercept applied.

    Raises
    ------
    VolumeNotFoundError
        If there is no such file.
    VolumeError
        If the file is no image, is cut short, is too large, or does not hold one
        real-valued 3D volume with at least one finite value.
    GeometryError
        If there is no invertible affine, or the voxel size is implausible.

    Examples
    --------
    >>> import nibabel as nib
    >>> import numpy as np
    >>> image = nib.Nifti1Image(np.ones((4, 5, 6, 1), np.int16), np.eye(4))
    >>> read_volume(image).data.shape
    (4, 5, 6)
    """
    stored = read_stored(source, memory_limit=memory_limit, n_volumes=1)
    for note in stored.notes:
        _LOGGER.warning("%s: %s", stored.name, note)
    data = _rescale(_drop_last_axes(stored.raw), stored)
    # One finite voxel is enough for most volumes.
    if not (np.isfinite(data[0, 0, 0]) or np.isfinite(data).any()):
        raise VolumeError(f"{stored.name}: expected intensities, got no finite value.")
    return Volume(data, _geometry(data, stored), _path_of(source))


def read_labels(source: ImageSource) -> Volume:
    """Read one 3D label map as int32; VolumeError if values are not integers."""
    stored = read_stored(source, memory_limit=MEMORY_LIMIT, n_volumes=1)
    values = _drop_last_axes(stored.raw).astype(np.float64)
    values = values * stored.slope + stored.intercept
    nearest = np.rint(np.nan_to_num(values))
    # A mask stored as bytes with a slope is read as 1.00000006. The error is relative:
    # an ADC map in m2/s is no label map of zeros.
    stray = values[~(np.abs(values - nearest) <= _LABEL_ROUNDING * np.abs(nearest))]
    if stray.size:
        raise VolumeError(f"{stored.name}: expected integer labels, got {stray[0]:g}.")
    limits = np.iinfo(np.int32)
    beyond = nearest[(nearest < limits.min) | (nearest > limits.max)]
    if beyond.size:
        raise VolumeError(
            f"{stored.name}: expected labels within 32 bits, got {beyond[0]:.0f}."
        )
    labels = nearest.astype(np.int32)
    return Volume(labels, _geometry(labels, stored), _path_of(source))


def split_volumes(source: ImageSource) -> tuple[ImageSource, ...]:
    """Split a 4D image into its volumes, as images in memory.

    Returns ``source`` itself if it holds one volume.
    """
    stored = read_stored(source, memory_limit=MEMORY_LIMIT)
    if stored.raw.ndim < 4 or stored.raw.shape[3:] == (1,):
        return (source,)
    volumes = []
    for index in range(stored.raw.shape[3]):
        data = _rescale(stored.raw[..., index], stored)
        volumes.append(to_image(Volume(data, _geometry(data, stored))))
    return tuple(volumes)


def write_volume(volume: Volume, path: str | os.PathLike[str]) -> Path:
    """Write a volume atomically.

    Parameters
    ----------
    volume : Volume
        Boolean data are written as uint8, 64-bit integers as int32 and
        64-bit floats as float32.
    path : path-like
        File ending in ``.nii``, ``.nii.gz`` or ``.mgz``; its folder is created, and
        ``~`` is the home folder.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    VolumeError
        If the suffix is another one, or 64-bit integers do not fit in 32 bits.
    """
    return write_image(to_image(volume), path)


def write_image(image: nib.Nifti1Image, path: str | os.PathLike[str]) -> Path:
    """Write a NIfTI image with its header, as `write_volume`."""
    target = expand_home(path)
    with atomic_write(target) as partial:
        if target.name.endswith(".nii.gz"):
            _write_gzip(partial, image.to_bytes())
        elif target.suffix == ".nii":
            nib.save(image, partial)
        elif target.suffix == ".mgz":
            data = np.asanyarray(image.dataobj)
            if data.dtype in {np.dtype(np.int8), np.dtype(np.uint32)}:
                data = _as_int32(data)  # MGH has neither
            nib.save(nib.MGHImage(data, image.affine), partial)
        else:
            raise VolumeError(
                f"{target}: expected a name that ends in .nii, .nii.gz or .mgz."
            )
    return target


def to_image(volume: Volume) -> nib.Nifti1Image:
    """Wrap a volume as a NIfTI image in mm, with sform and qform set to its affine."""
    image = nib.Nifti1Image(_storable(volume.data), volume.geometry.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(volume.geometry.affine, code="scanner")
    # A qform cannot hold shears: it stores the nearest rotation. Readers prefer the
    # sform.
    image.set_qform(volume.geometry.affine, code="scanner", strip_shears=True)
    return image


def to_image_like(data: NDArray[Any], source: ImageSource) -> nib.Nifti1Image:
    """Wrap an array as a NIfTI image on the grid of another image.

    ``data`` may have a fourth axis. Affine, units, codes and trailing axes of length
    one are those of ``source``.
    """
    like = read_grid(source)
    if data.ndim == 3:
        data = data.reshape(like.shape)
    header = None
    if like.header is not None:
        header = nib.Nifti1Header.from_header(like.header, check=False)
        header["sizeof_hdr"] = header.sizeof_hdr  # NIfTI-2 has a longer one
        header.set_data_dtype(data.dtype)
        header.set_slope_inter(1, 0)
        header["cal_min"] = header["cal_max"] = 0
        header.extensions.clear()
    image = nib.Nifti1Image(data, like.affine, header)
    if header is None:
        image.header.set_xyzt_units("mm", "sec")
    return image


def _write_gzip(path: Path, content: bytes) -> None:
    # A fixed time stamp: the same volume gives the same bytes.
    options = {"filename": "", "compresslevel": _GZIP_LEVEL, "mtime": 0}
    with (
        path.open("wb") as raw,
        igzip.IGzipFile(fileobj=raw, mode="wb", **options) as file,
    ):
        file.write(content)


def _drop_last_axes(raw: NDArray[Any]) -> NDArray[Any]:
    return raw.reshape(raw.shape[:3], order="F")


def _rescale(raw: NDArray[Any], stored: StoredVoxels) -> NDArray[np.float32]:
    data = raw.astype(np.float32)
    if stored.slope != 1.0 or stored.intercept != 0.0:
        data = data * np.float32(stored.slope) + np.float32(stored.intercept)
    return data


def _geometry(data: NDArray[Any], stored: StoredVoxels) -> Geometry:
    if stored.affine is None:
        raise GeometryError(f"{stored.name}: the image has no affine.")
    try:
        geometry = Geometry(data.shape, stored.affine)
    except GeometryError as error:
        raise GeometryError(f"{stored.name}: {error}") from error
    smallest, largest = _VOXEL_EDGES
    if not smallest <= min(geometry.spacing) <= max(geometry.spacing) <= largest:
        edges = ", ".join(f"{edge:.3g}" for edge in geometry.spacing)
        raise GeometryError(
            f"{stored.name}: expected voxel edges of {smallest} to {largest} mm, "
            f"got {edges}{''.join(f' ({note})' for note in stored.notes)}."
        )
    return geometry


def _path_of(source: ImageSource) -> Path | None:
    if isinstance(source, SpatialImage):
        name = source.get_filename()
        return None if name is None else Path(name)
    return expand_home(source)


def _storable(data: NDArray[Any]) -> NDArray[Any]:
    if data.dtype == np.bool_:
        return data.astype(np.uint8)
    if data.dtype.kind == "f":
        return data.astype(np.float32, copy=False)
    if data.dtype.itemsize == 8:
        return _as_int32(data)
    return data


def _as_int32(data: NDArray[Any]) -> NDArray[np.int32]:
    limits = np.iinfo(np.int32)
    if data.size and (data.min() < limits.min or data.max() > limits.max):
        raise VolumeError(f"expected labels within 32 bits, got {data.max()}.")
    return data.astype(np.int32)
