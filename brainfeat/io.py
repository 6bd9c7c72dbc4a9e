"""Reading and writing images: the only place that opens or writes NIfTI."""

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from isal import igzip
from isal.isal_zlib import IsalError
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from brainfeat.atomic import atomic_write
from brainfeat.exceptions import GeometryError, VolumeError, VolumeNotFoundError
from brainfeat.volume import Geometry, Volume

__all__ = [
    "ImageSource",
    "content_hash",
    "read_labels",
    "read_volume",
    "split_volumes",
    "to_image",
    "write_volume",
]

ImageSource = str | os.PathLike[str] | SpatialImage

# Level 1 writes ten times faster than nibabel's default, for files 10 % larger.
_GZIP_LEVEL = 1
_NIFTI_HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
_GZIP_ERRORS: tuple[Any, ...] = (igzip.BadGzipFile, IsalError)
_READ_ERRORS = (OSError, EOFError, ValueError, ImageFileError, *_GZIP_ERRORS)


def read_volume(source: ImageSource) -> Volume:
    """Read one 3D volume of intensities.

    Parameters
    ----------
    source : path-like or nibabel image
        Any spatial image that nibabel opens. A fourth axis is dropped if it
        holds one volume. The affine is the sform, else the qform, as nibabel
        chooses.

    Returns
    -------
    Volume
        Intensities as float32, with the header's slope and intercept applied.

    Raises
    ------
    VolumeNotFoundError
        If there is no such file.
    VolumeError
        If the file is no image, is cut short, or does not hold one real-valued
        3D volume with at least one finite value.
    GeometryError
        If the affine does not place the voxels.

    Examples
    --------
    >>> import nibabel as nib
    >>> import numpy as np
    >>> image = nib.Nifti1Image(np.ones((4, 5, 6, 1), np.int16), np.eye(4))
    >>> read_volume(image).data.shape
    (4, 5, 6)
    """
    name, stored = _open(source)
    data = _scaled(_one_volume(stored.raw, name), stored)
    if not np.isfinite(data).any():
        raise VolumeError(f"{name}: expected intensities, got no finite value.")
    return Volume(data, _geometry(data, stored.affine, name), _path_of(source))


def read_labels(source: ImageSource) -> Volume:
    """Read one 3D label map.

    Parameters
    ----------
    source : path-like or nibabel image
        As for :func:`read_volume`.

    Returns
    -------
    Volume
        Labels as int32.

    Raises
    ------
    VolumeNotFoundError
        If there is no such file.
    VolumeError
        If the file is no readable 3D image, or holds values that are not
        integers.
    GeometryError
        If the affine does not place the voxels.
    """
    name, stored = _open(source)
    values = _one_volume(stored.raw, name).astype(np.float64)
    values = values * stored.slope + stored.intercept
    limits = np.iinfo(np.int32)
    labels = np.clip(np.nan_to_num(values), limits.min, limits.max).astype(np.int32)
    if not np.array_equal(labels, values):
        stray = values[labels != values].flat[0]
        raise VolumeError(f"{name}: expected integer labels, got {stray:g}.")
    return Volume(labels, _geometry(labels, stored.affine, name), _path_of(source))


def split_volumes(source: ImageSource) -> tuple[ImageSource, ...]:
    """Split a 4D image into its volumes.

    Parameters
    ----------
    source : path-like or nibabel image
        As for :func:`read_volume`, with any number of volumes.

    Returns
    -------
    tuple of path-like or nibabel image
        The volumes in order as images in memory; ``source`` itself if it holds
        one volume.

    Raises
    ------
    VolumeNotFoundError
        If there is no such file.
    VolumeError
        If the file is no readable image, or has neither three nor four axes.
    """
    name, stored = _open(source)
    if stored.raw.ndim < 4 or stored.raw.shape[3:] == (1,):
        return (source,)
    if stored.raw.ndim > 4:
        raise VolumeError(
            f"{name}: expected a 3D or 4D image, got shape {stored.raw.shape}."
        )
    volumes = []
    for index in range(stored.raw.shape[3]):
        data = _scaled(_one_volume(stored.raw[..., index], name), stored)
        volumes.append(to_image(Volume(data, _geometry(data, stored.affine, name))))
    return tuple(volumes)


def write_volume(volume: Volume, path: str | os.PathLike[str]) -> Path:
    """Write a volume, whole or not at all.

    Parameters
    ----------
    volume : Volume
        Boolean data are written as uint8, 64-bit integers as int32 and
        64-bit floats as float32.
    path : path-like
        File ending in ``.nii``, ``.nii.gz`` or ``.mgz``; its folder is created.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    VolumeError
        If the suffix is another one, or 64-bit integers do not fit in 32 bits.
    """
    target = Path(path)
    image = to_image(volume)
    with atomic_write(target) as partial:
        if target.name.endswith(".nii.gz"):
            # A fixed time stamp: the same volume gives the same bytes.
            with (
                partial.open("wb") as raw,
                igzip.IGzipFile(
                    filename="",
                    fileobj=raw,
                    mode="wb",
                    compresslevel=_GZIP_LEVEL,
                    mtime=0,
                ) as file,
            ):
                file.write(image.to_bytes())
        elif target.suffix == ".nii":
            nib.save(image, partial)
        elif target.suffix == ".mgz":
            nib.save(nib.MGHImage(np.asanyarray(image.dataobj), image.affine), partial)
        else:
            raise VolumeError(
                f"{target}: expected a name that ends in .nii, .nii.gz or .mgz."
            )
    return target


def to_image(volume: Volume) -> nib.Nifti1Image:
    """Wrap a volume as a NIfTI image in millimetres.

    Parameters
    ----------
    volume : Volume
        As for :func:`write_volume`.

    Returns
    -------
    nibabel.Nifti1Image
        Image with sform and qform set to the volume's affine.

    Raises
    ------
    VolumeError
        If 64-bit integers do not fit in 32 bits.
    """
    image = nib.Nifti1Image(_storable(volume.data), volume.geometry.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(volume.geometry.affine, code="scanner")
    # A qform cannot hold shears: the nearest rotation is stored, the sform rules.
    image.set_qform(volume.geometry.affine, code="scanner", strip_shears=True)
    return image


def content_hash(source: ImageSource) -> str:
    """Fingerprint an image by its content, not by its name or date.

    Parameters
    ----------
    source : path-like or nibabel image
        A file is hashed byte for byte, an image by its stored array and affine.

    Returns
    -------
    str
        SHA-256 in hexadecimal.

    Raises
    ------
    VolumeNotFoundError
        If there is no such file.
    VolumeError
        If the file cannot be read.
    """
    if isinstance(source, SpatialImage):
        data = np.ascontiguousarray(source.dataobj)
        digest = hashlib.sha256(f"{data.dtype.str}{data.shape}".encode())
        digest.update(np.asarray(source.affine, dtype=np.float64).tobytes())
        digest.update(data.view(np.uint8).data if data.size else b"")
        return digest.hexdigest()
    path = _existing_file(source)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read ({error.strerror}).") from error


class _Stored(NamedTuple):
    """An array as stored, before slope and intercept."""

    raw: NDArray[Any]
    affine: NDArray[np.float64]
    slope: float
    intercept: float


def _open(source: ImageSource) -> tuple[str, _Stored]:
    if isinstance(source, SpatialImage):
        name = source.get_filename() or "image in memory"
        return name, _from_image(source)
    path = _existing_file(source)
    try:
        if path.name.endswith(".nii.gz"):
            return str(path), _from_gzipped_nifti(path)
        image = nib.load(path)
        if not isinstance(image, SpatialImage):
            raise VolumeError(f"{path}: expected a spatial image, got a surface.")
        return str(path), _from_image(image)
    except VolumeError:
        raise
    except _READ_ERRORS as error:
        raise VolumeError(f"{path}: {_reason(error)}") from error


def _path_of(source: ImageSource) -> Path | None:
    if isinstance(source, SpatialImage):
        name = source.get_filename()
        return None if name is None else Path(name)
    return Path(source).expanduser()


def _existing_file(source: str | os.PathLike[str]) -> Path:
    path = Path(source).expanduser()
    if path.is_dir():
        raise VolumeError(f"{path}: expected an image file, got a folder.")
    if not path.exists():
        raise VolumeNotFoundError(f"{path}: no such file.")
    return path


def _reason(error: Exception) -> str:
    if isinstance(error, EOFError):
        return "the compressed file is cut short."
    if isinstance(error, _GZIP_ERRORS):
        return f"not a valid gzip file ({error})."
    if isinstance(error, PermissionError):
        return "permission denied."
    # One line: nibabel's messages may carry line breaks.
    return f"not a readable image ({' '.join(str(error).split())})."


def _from_gzipped_nifti(path: Path) -> _Stored:
    with igzip.open(path, "rb") as file:
        start = file.read(4)
        if len(start) < 4:
            raise VolumeError(f"{path}: not a NIfTI file (no header).")
        sizes = {int.from_bytes(start, "little"), int.from_bytes(start, "big")}
        size = next(iter(sizes & _NIFTI_HEADERS.keys()), None)
        if size is None:
            raise VolumeError(f"{path}: not a NIfTI file (header size is not 348).")
        block = start + file.read(size - 4)
        try:
            header = _NIFTI_HEADERS[size](block, check=True)
            shape, dtype = header.get_data_shape(), header.get_data_dtype()
            slope, intercept = header.get_slope_inter()
        except (HeaderDataError, WrapStructError, ValueError, KeyError) as error:
            raise VolumeError(f"{path}: damaged NIfTI header ({error}).") from error
        file.read(max(header.get_data_offset() - size, 0))
        n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        buffer = file.read(n_bytes)
    if len(buffer) < n_bytes:
        raise VolumeError(
            f"{path}: expected {n_bytes} bytes of data for shape {shape}, "
            f"got {len(buffer)}."
        )
    raw = np.frombuffer(buffer, dtype).reshape(shape, order="F")
    return _Stored(raw, header.get_best_affine(), slope or 1.0, intercept or 0.0)


def _from_image(image: SpatialImage) -> _Stored:
    proxy: Any = image.dataobj
    if nib.is_proxy(proxy) and hasattr(proxy, "get_unscaled"):
        slope, intercept = float(proxy.slope), float(proxy.inter)
        return _Stored(proxy.get_unscaled(), image.affine, slope, intercept)
    return _Stored(np.asanyarray(proxy), image.affine, 1.0, 0.0)


def _one_volume(raw: NDArray[Any], name: str) -> NDArray[Any]:
    if raw.dtype.kind not in "biuf":
        kind = "complex" if raw.dtype.kind == "c" else str(raw.dtype)
        raise VolumeError(f"{name}: expected real numbers, got {kind} data.")
    data = raw
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim != 3:
        kind = f" ({data.shape[3]} volumes)" if data.ndim == 4 else ""
        raise VolumeError(
            f"{name}: expected one 3D volume, got shape {raw.shape}{kind}."
        )
    if 0 in data.shape:
        raise VolumeError(f"{name}: expected voxels, got shape {raw.shape}.")
    return data


def _scaled(raw: NDArray[Any], stored: _Stored) -> NDArray[np.float32]:
    data = raw.astype(np.float32)
    if stored.slope != 1.0 or stored.intercept != 0.0:
        data = data * np.float32(stored.slope) + np.float32(stored.intercept)
    return data


def _geometry(data: NDArray[Any], affine: Any, name: str) -> Geometry:
    if affine is None:
        raise GeometryError(f"{name}: the image has no affine.")
    try:
        return Geometry(data.shape, affine)
    except GeometryError as error:
        raise GeometryError(f"{name}: {error}") from error


def _storable(data: NDArray[Any]) -> NDArray[Any]:
    if data.dtype == np.bool_:
        return data.astype(np.uint8)
    if data.dtype.kind == "f":
        return data.astype(np.float32, copy=False)
    if data.dtype.itemsize == 8:
        limits = np.iinfo(np.int32)
        if data.size and (data.min() < limits.min or data.max() > limits.max):
            raise VolumeError(f"expected labels within 32 bits, got {data.max()}.")
        return data.astype(np.int32)
    return data
