"""Image files as they are stored: the only module that opens NIfTI."""

import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from isal import igzip
from isal.isal_zlib import IsalError
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from brainfeat.exceptions import (
    GeometryError,
    VolumeError,
    VolumeNotFoundError,
    brief_reason,
)
from brainfeat.io.nifti_header import NiftiLayout, check_size, read_layout
from brainfeat.io.paths import expand_home

__all__ = [
    "ImageSource",
    "StoredVoxels",
    "existing_file",
    "files_of",
    "open_image",
    "read_stored",
]

ImageSource = str | os.PathLike[str] | SpatialImage

_GZIP_ERRORS: tuple[Any, ...] = (igzip.BadGzipFile, IsalError)
_SKIP_SIZE = 1 << 20  # bytes
# Formats with header and voxels in one file.
_SINGLE_FILE = (".nii", ".nii.gz", ".mgh", ".mgz")


class StoredVoxels(NamedTuple):
    """An array of the stored shape and type, before slope and intercept.

    ``name`` is the name in errors; ``affine`` maps indices to scanner mm, unchecked.
    """

    name: str
    raw: NDArray[Any]
    affine: NDArray[np.float64] | None
    slope: float
    intercept: float


def read_stored(
    source: ImageSource, *, memory_limit: int, n_volumes: int | None = None
) -> StoredVoxels:
    """Read the voxels of any image that nibabel opens, after checks of its header.

    A file may need at most ``memory_limit`` bytes while it is read and prepared. If
    ``n_volumes`` is 1, more than one 3D volume is refused.
    """
    if isinstance(source, SpatialImage):
        name = source.get_filename() or "image in memory"
        return _read_image(source, name, n_volumes)
    path = existing_file(source)
    name = str(path)
    try:
        if name.lower().endswith((".nii", ".nii.gz")):
            return _read_nifti(path, memory_limit, n_volumes)
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
        return _read_image(image, name, n_volumes)
    except (VolumeError, GeometryError) as error:
        raise type(error)(f"{name}: {str(error).removeprefix(f'{name}: ')}") from error
    except Exception as error:  # damaged files raise almost anything
        raise VolumeError(f"{name}: {_reason(error)}") from error


def open_image(source: str | os.PathLike[str]) -> Any:
    """Open an image with nibabel, which reads its voxels on access."""
    path = existing_file(source)
    try:
        return nib.load(path)
    except Exception as error:  # damaged files raise almost anything
        raise VolumeError(f"{path}: {_reason(error)}") from error


def existing_file(source: str | os.PathLike[str]) -> Path:
    """Expand ``~``, and raise VolumeNotFoundError or VolumeError if it is no file."""
    path = expand_home(source)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        what = "a link to no file" if path.is_symlink() else "no such file"
        raise VolumeNotFoundError(f"{path}: {what}.") from None
    except (OSError, ValueError) as error:  # cyclic links, a name with a zero byte
        raise VolumeError(f"{path}: cannot be read ({brief_reason(error)}).") from error
    if stat.S_ISDIR(mode):
        raise VolumeError(f"{path}: expected an image file, got a folder.")
    if not stat.S_ISREG(mode):
        # Opening a pipe would block.
        raise VolumeError(f"{path}: expected an image file, got a device or a pipe.")
    return path


def files_of(source: str | os.PathLike[str]) -> list[Path]:
    """Return all existing files of an image: Analyze keeps header and voxels apart.

    Returns ``source`` alone if it is no image.
    """
    path = existing_file(source)
    if path.name.lower().endswith(_SINGLE_FILE):
        return [path]
    try:
        return sorted({path, *_files_of(open_image(path))})
    except VolumeError:  # reading it will report the error
        return [path]


def _read_nifti(path: Path, memory_limit: int, n_volumes: int | None) -> StoredVoxels:
    is_compressed = path.name.lower().endswith(".gz")
    with igzip.open(path, "rb") if is_compressed else path.open("rb") as file:
        layout = read_layout(file)
        _check_volumes(layout.shape, layout.dtype, n_volumes)
        check_size(
            layout.shape,
            layout.dtype,
            n_bytes_on_disk=path.stat().st_size,
            memory_limit=memory_limit,
            is_compressed=is_compressed,
        )
        raw = _read_voxels(file, layout)
    return StoredVoxels(str(path), raw, layout.affine, layout.slope, layout.intercept)


def _check_volumes(
    shape: tuple[int, ...], dtype: np.dtype[Any], n_volumes: int | None
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


def _read_voxels(file: Any, layout: NiftiLayout) -> NDArray[Any]:
    n_left = layout.n_skipped
    while n_left > 0 and (skipped := file.read(min(n_left, _SKIP_SIZE))):
        n_left -= len(skipped)
    buffer = file.read(layout.n_bytes)
    if len(buffer) < layout.n_bytes:
        raise VolumeError(
            f"expected {layout.n_bytes} bytes of data for shape {layout.shape}, "
            f"got {len(buffer)}."
        )
    return np.frombuffer(buffer, layout.dtype).reshape(layout.shape, order="F")


def _size_on_disk(image: SpatialImage) -> int:
    return sum(path.stat().st_size for path in _files_of(image))


def _files_of(image: Any) -> set[Path]:
    names = {holder.filename for holder in image.file_map.values() if holder.filename}
    return {path for path in map(Path, names) if path.exists()}


def _read_image(image: SpatialImage, name: str, n_volumes: int | None) -> StoredVoxels:
    proxy: Any = image.dataobj
    shape = tuple(map(int, image.shape))  # numpy integers in FreeSurfer's
    dtype = getattr(proxy, "dtype", image.get_data_dtype())  # missing in MINC's
    try:
        _check_volumes(shape, dtype, n_volumes)
    except VolumeError as error:
        raise VolumeError(f"{name}: {error}") from error
    # Not for subclasses: AFNI's has a scale per volume elsewhere.
    if type(proxy) is nib.arrayproxy.ArrayProxy:
        slope, intercept = float(proxy.slope), float(proxy.inter)
        raw = proxy.get_unscaled()
        return StoredVoxels(name, raw, image.affine, slope, intercept)
    return StoredVoxels(name, np.asanyarray(proxy), image.affine, 1.0, 0.0)


def _reason(error: Exception) -> str:
    if isinstance(error, EOFError):
        return "the compressed file is cut short."
    if isinstance(error, _GZIP_ERRORS):
        return f"not a valid gzip file ({error})."
    if isinstance(error, PermissionError):
        return "permission denied."
    if isinstance(error, MemoryError):
        return "does not fit into memory."
    # In one line: nibabel's messages may contain line breaks.
    return f"not a readable image ({' '.join(str(error).split())})."
