"""Reading and writing images: the only place that opens or writes NIfTI."""

import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from isal import igzip
from isal.isal_zlib import IsalError
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from brainfeat.atomic import atomic_write
from brainfeat.exceptions import GeometryError, VolumeError, VolumeNotFoundError
from brainfeat.nifti_header import NiftiLayout, check_size, read_layout
from brainfeat.volume import Geometry, Volume

__all__ = [
    "MEMORY_LIMIT",
    "ImageSource",
    "content_hash",
    "hash_images",
    "read_labels",
    "read_volume",
    "split_volumes",
    "to_image",
    "to_image_like",
    "write_image",
    "write_volume",
]

# Bytes: half a millimetre of a whole head takes less than half of it.
MEMORY_LIMIT = 4_000_000_000

ImageSource = str | os.PathLike[str] | SpatialImage

# Level 1 writes ten times faster than nibabel's default, for files 10 % larger.
_GZIP_LEVEL = 1
_GZIP_ERRORS: tuple[Any, ...] = (igzip.BadGzipFile, IsalError)
_SKIPPED_AT_ONCE = 1 << 20
# Millimetres. What lies beyond is a header in other units, or a damaged one, and would
# be smoothed for hours.
_VOXEL_EDGES = (0.02, 100.0)
_LABEL_ROUNDING = 1e-4  # how far from an integer a slope may bring a label


def read_volume(source: ImageSource, *, memory_limit: int = MEMORY_LIMIT) -> Volume:
    """Read one 3D volume of intensities.

    Parameters
    ----------
    source : path-like or nibabel image
        Any spatial image that nibabel opens. A fourth axis is dropped if it
        holds one volume. The affine is the sform, else the qform, as nibabel
        chooses.
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
        If the affine does not place the voxels.

    Examples
    --------
    >>> import nibabel as nib
    >>> import numpy as np
    >>> image = nib.Nifti1Image(np.ones((4, 5, 6, 1), np.int16), np.eye(4))
    >>> read_volume(image).data.shape
    (4, 5, 6)
    """
    name, stored = _open(source, _check_one_volume, memory_limit)
    data = _scaled(_without_last_axes(stored.raw), stored)
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
        integers to four decimals.
    GeometryError
        If the affine does not place the voxels.
    """
    name, stored = _open(source, _check_one_volume)
    values = _without_last_axes(stored.raw).astype(np.float64)
    values = values * stored.slope + stored.intercept
    limits = np.iinfo(np.int32)
    nearest = np.rint(np.clip(np.nan_to_num(values), limits.min, limits.max))
    # A mask that was stored as bytes and a slope comes back as 1.00000006.
    stray = values[~(np.abs(values - nearest) < _LABEL_ROUNDING)]
    if stray.size:
        raise VolumeError(f"{name}: expected integer labels, got {stray[0]:g}.")
    labels = nearest.astype(np.int32)
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
    name, stored = _open(source, _check_volumes)
    if stored.raw.ndim < 4 or stored.raw.shape[3:] == (1,):
        return (source,)
    volumes = []
    for index in range(stored.raw.shape[3]):
        data = _scaled(stored.raw[..., index], stored)
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
    return write_image(to_image(volume), target)


def write_image(image: nib.Nifti1Image, path: str | os.PathLike[str]) -> Path:
    """Write a NIfTI image with its header, whole or not at all.

    Parameters
    ----------
    image : nibabel.Nifti1Image
        Image in memory.
    path : path-like
        As for :func:`write_volume`.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    VolumeError
        If the suffix is another one.
    """
    target = Path(path)
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


def to_image_like(data: NDArray[Any], source: ImageSource) -> nib.Nifti1Image:
    """Wrap an array as a NIfTI image on the grid of another image.

    Parameters
    ----------
    data : ndarray of shape (size_i, size_j, size_k) or (size_i, size_j, size_k, n)
        New values.
    source : path-like or nibabel image
        Whose affine, units and codes are kept; trailing axes of one, too.

    Returns
    -------
    nibabel.Nifti1Image
        Of the data type of ``data``.

    Raises
    ------
    VolumeNotFoundError
        If there is no such file.
    VolumeError
        If the file is no image.
    """
    like = source if isinstance(source, SpatialImage) else _load(source)
    if data.ndim == 3:
        data = data.reshape(like.shape)
    header = None
    if isinstance(like.header, nib.Nifti1Header):
        header = nib.Nifti1Header.from_header(like.header, check=False)
        header.set_data_dtype(data.dtype)
        header.set_slope_inter(1, 0)
        header["cal_min"] = header["cal_max"] = 0
        header.extensions.clear()
    image = nib.Nifti1Image(data, like.affine, header)
    if header is None:
        image.header.set_xyzt_units("mm", "sec")
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


def hash_images(images: Mapping[str, str]) -> str:
    """Fingerprint the images of one row by their content.

    Parameters
    ----------
    images : mapping of str to str
        Path of the image of each modality.

    Returns
    -------
    str
        SHA-256 in hexadecimal; for a single image it is that of the file.

    Raises
    ------
    VolumeError
        If a file is missing or cannot be read.
    """
    hashes = {modality: content_hash(path) for modality, path in images.items()}
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    lines = (f"{modality} {value}\n" for modality, value in sorted(hashes.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


_ShapeCheck = Callable[[tuple[int, ...], np.dtype[Any]], None]


class _Stored(NamedTuple):
    """An array as stored, before slope and intercept."""

    raw: NDArray[Any]
    affine: NDArray[np.float64]
    slope: float
    intercept: float


def _open(
    source: ImageSource, check: _ShapeCheck, memory_limit: int = MEMORY_LIMIT
) -> tuple[str, _Stored]:
    """Read what is stored, if its header passes a check.

    Raises
    ------
    VolumeError
        If it does not, or cannot be read.
    """
    if isinstance(source, SpatialImage):
        name = source.get_filename() or "image in memory"
        return name, _from_image(source, name, check)
    path = _existing_file(source)
    name = str(path)
    try:
        if name.lower().endswith((".nii", ".nii.gz")):
            return name, _from_nifti(path, check, memory_limit)
        image = nib.load(path)
        if not isinstance(image, SpatialImage):
            raise VolumeError("expected a spatial image, got a surface.")
        check_size(
            image.shape,
            image.get_data_dtype(),
            n_bytes_on_disk=_size_on_disk(image),
            memory_limit=memory_limit,
            is_compressed=True,
        )
        return name, _from_image(image, name, check)
    except (VolumeError, GeometryError) as error:
        raise type(error)(f"{name}: {str(error).removeprefix(f'{name}: ')}") from error
    except Exception as error:  # whatever a damaged file makes a library raise
        raise VolumeError(f"{name}: {_reason(error)}") from error


def _size_on_disk(image: SpatialImage) -> int:
    """Return the bytes of all files of an image: header and voxels may lie apart."""
    paths = {holder.filename for holder in image.file_map.values() if holder.filename}
    return sum(Path(path).stat().st_size for path in paths if Path(path).exists())


def _load(source: str | os.PathLike[str]) -> Any:
    path = _existing_file(source)
    try:
        return nib.load(path)
    except Exception as error:  # whatever a damaged file makes a library raise
        raise VolumeError(f"{path}: {_reason(error)}") from error


def _path_of(source: ImageSource) -> Path | None:
    if isinstance(source, SpatialImage):
        name = source.get_filename()
        return None if name is None else Path(name)
    return Path(source).expanduser()


def _existing_file(source: str | os.PathLike[str]) -> Path:
    path = Path(source).expanduser()
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        what = "a link to no file" if path.is_symlink() else "no such file"
        raise VolumeNotFoundError(f"{path}: {what}.") from None
    except (OSError, ValueError) as error:  # a loop of links, a name with a zero byte
        raise VolumeError(f"{path}: cannot be read ({_brief(error)}).") from error
    if stat.S_ISDIR(mode):
        raise VolumeError(f"{path}: expected an image file, got a folder.")
    if not stat.S_ISREG(mode):
        # Opening a pipe would wait for ever.
        raise VolumeError(f"{path}: expected an image file, got a device or a pipe.")
    return path


def _brief(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())


def _reason(error: Exception) -> str:
    if isinstance(error, EOFError):
        return "the compressed file is cut short."
    if isinstance(error, _GZIP_ERRORS):
        return f"not a valid gzip file ({error})."
    if isinstance(error, PermissionError):
        return "permission denied."
    if isinstance(error, MemoryError):
        return "does not fit into memory."
    # One line: nibabel's messages may carry line breaks.
    return f"not a readable image ({' '.join(str(error).split())})."


def _from_nifti(path: Path, check: _ShapeCheck, memory_limit: int) -> _Stored:
    is_compressed = path.name.lower().endswith(".gz")
    with igzip.open(path, "rb") if is_compressed else path.open("rb") as file:
        layout = read_layout(file)
        check(layout.shape, layout.dtype)
        check_size(
            layout.shape,
            layout.dtype,
            n_bytes_on_disk=path.stat().st_size,
            memory_limit=memory_limit,
            is_compressed=is_compressed,
        )
        return _Stored(
            _read_voxels(file, layout), layout.affine, layout.slope, layout.intercept
        )


def _read_voxels(file: Any, layout: NiftiLayout) -> NDArray[Any]:
    left = layout.n_skipped
    while left > 0 and (skipped := file.read(min(left, _SKIPPED_AT_ONCE))):
        left -= len(skipped)
    buffer = file.read(layout.n_bytes)
    if len(buffer) < layout.n_bytes:
        raise VolumeError(
            f"expected {layout.n_bytes} bytes of data for shape {layout.shape}, "
            f"got {len(buffer)}."
        )
    return np.frombuffer(buffer, layout.dtype).reshape(layout.shape, order="F")


def _from_image(image: SpatialImage, name: str, check: _ShapeCheck) -> _Stored:
    proxy: Any = image.dataobj
    try:
        check(image.shape, proxy.dtype)
    except VolumeError as error:
        raise VolumeError(f"{name}: {error}") from error
    if nib.is_proxy(proxy) and hasattr(proxy, "get_unscaled"):
        slope, intercept = float(proxy.slope), float(proxy.inter)
        return _Stored(proxy.get_unscaled(), image.affine, slope, intercept)
    return _Stored(np.asanyarray(proxy), image.affine, 1.0, 0.0)


def _check_one_volume(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    _check_volumes(shape, dtype, n_volumes=1)


def _check_volumes(
    shape: tuple[int, ...], dtype: np.dtype[Any], n_volumes: int | None = None
) -> None:
    if dtype.kind not in "biuf":
        kind = "complex" if dtype.kind == "c" else str(dtype)
        raise VolumeError(f"expected real numbers, got {kind} data.")
    sizes = shape
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes = sizes[:-1]
    if n_volumes == 1 and len(sizes) != 3:
        kind = f" ({shape[3]} volumes)" if len(sizes) == 4 else ""
        raise VolumeError(f"expected one 3D volume, got shape {shape}{kind}.")
    if len(sizes) not in {3, 4}:
        raise VolumeError(f"expected a 3D or 4D image, got shape {shape}.")
    if 0 in sizes[:3]:
        raise VolumeError(f"expected voxels, got shape {shape}.")


def _without_last_axes(raw: NDArray[Any]) -> NDArray[Any]:
    return raw.reshape(raw.shape[:3], order="F")


def _scaled(raw: NDArray[Any], stored: _Stored) -> NDArray[np.float32]:
    data = raw.astype(np.float32)
    if stored.slope != 1.0 or stored.intercept != 0.0:
        data = data * np.float32(stored.slope) + np.float32(stored.intercept)
    return data


def _geometry(data: NDArray[Any], affine: Any, name: str) -> Geometry:
    if affine is None:
        raise GeometryError(f"{name}: the image has no affine.")
    try:
        geometry = Geometry(data.shape, affine)
    except GeometryError as error:
        raise GeometryError(f"{name}: {error}") from error
    smallest, largest = _VOXEL_EDGES
    if not smallest <= min(geometry.spacing) <= max(geometry.spacing) <= largest:
        edges = ", ".join(f"{edge:.3g}" for edge in geometry.spacing)
        raise GeometryError(
            f"{name}: expected voxel edges of {smallest} to {largest} mm, got {edges}."
        )
    return geometry


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
