"""Image files as they are stored: the only module that opens NIfTI."""

import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
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
from brainfeat.io.file_kinds import (
    Compression,
    describe_absence,
    describe_dicom,
    describe_link,
    describe_stranger,
    find_compression,
    first_bytes,
)
from brainfeat.io.itk_files import (
    ITK_SUFFIXES,
    read_itk,
    read_itk_grid,
    read_itk_header,
)
from brainfeat.io.nifti_header import (
    NO_ORIENTATION,
    NiftiLayout,
    check_size,
    read_header,
    read_layout,
    to_millimetres,
)
from brainfeat.io.paths import NIFTI_SUFFIXES, expand_home
from brainfeat.io.stored_voxels import StoredVoxels, check_volumes

__all__ = [
    "ImageSource",
    "StoredGrid",
    "existing_file",
    "files_of",
    "read_grid",
    "read_stored",
]

ImageSource = str | os.PathLike[str] | SpatialImage

_GZIP_ERRORS: tuple[Any, ...] = (igzip.BadGzipFile, IsalError)
_SKIP_SIZE = 1 << 20  # bytes
# Formats with header and voxels in one file.
_SINGLE_FILE = (*NIFTI_SUFFIXES, ".mgh", ".mgz", ".nrrd", ".mha")


class StoredGrid(NamedTuple):
    """Shape and affine of an image, and its header if that is of NIfTI.

    The affine is in the units of the header.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64] | None
    header: Any


def read_stored(
    source: ImageSource, *, memory_limit: int, n_volumes: int | None = None
) -> StoredVoxels:
    """Read the voxels of any image that nibabel or ITK opens, after checks.

    A file may need at most ``memory_limit`` bytes while it is read and prepared. If
    ``n_volumes`` is 1, more than one 3D volume is refused.
    """
    if isinstance(source, SpatialImage):
        name = source.get_filename() or "image in memory"
        return _read_image(source, name, n_volumes)
    path = existing_file(source)
    with _naming(path):
        _check_kind(path)
        if _has_suffix(path, NIFTI_SUFFIXES):
            return _read_nifti(path, memory_limit, n_volumes)
        if _has_suffix(path, ITK_SUFFIXES):
            _itk_files_of(path)
            return read_itk(path, memory_limit, n_volumes)
        image = nib.load(path)
        if not isinstance(image, SpatialImage):
            raise VolumeError("expected a spatial image, got a surface.")
        check_size(
            image.shape,
            image.get_data_dtype(),
            n_bytes_on_disk=sum(path.stat().st_size for path in _files_of(image)),
            memory_limit=memory_limit,
            compression="gzip",
        )
        return _read_image(image, str(path), n_volumes)


def read_grid(source: ImageSource) -> StoredGrid:
    """Read the shape and the affine of an image, without its voxels."""
    if isinstance(source, SpatialImage):
        return _grid_of(source)
    path = existing_file(source)
    with _naming(path):
        if _has_suffix(path, ITK_SUFFIXES):
            return StoredGrid(*read_itk_grid(path), None)
        if not _has_suffix(path, NIFTI_SUFFIXES):
            return _grid_of(nib.load(path))
        with _open_decompressed(path, find_compression(first_bytes(path))) as file:
            header = read_header(file)
        return StoredGrid(header.get_data_shape(), header.get_best_affine(), header)


def existing_file(source: str | os.PathLike[str]) -> Path:
    """Expand ``~``, and raise VolumeNotFoundError or VolumeError if it is no file."""
    path = expand_home(source)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        is_link = path.is_symlink()
        reason = describe_link(path) if is_link else describe_absence(path)
        raise VolumeNotFoundError(f"{path}: {reason}.") from None
    except (OSError, ValueError) as error:  # cyclic links, a name with a zero byte
        raise VolumeError(f"{path}: cannot be read ({brief_reason(error)}).") from error
    if stat.S_ISDIR(mode):
        dicom = describe_dicom(path)
        what = "a folder" if dicom is None else f"a folder of {dicom}"
        raise VolumeError(f"{path}: expected an image file, got {what}.")
    if not stat.S_ISREG(mode):
        # Opening a pipe would block.
        raise VolumeError(f"{path}: expected an image file, got a device or a pipe.")
    return path


def files_of(source: str | os.PathLike[str]) -> list[Path]:
    """Return all existing files of an image: Analyze keeps header and voxels apart.

    Returns ``source`` alone if it is no image.
    """
    path = existing_file(source)
    if _has_suffix(path, _SINGLE_FILE):
        return [path]
    try:
        if _has_suffix(path, ITK_SUFFIXES):
            return _itk_files_of(path)
        return sorted({path, *_files_of(nib.load(path))})
    except Exception:  # damaged files raise almost anything; reading it reports it
        return [path]


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Raise all errors of the block as ours, with the name of the file."""
    try:
        yield
    except (VolumeError, GeometryError) as error:
        raise type(error)(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    except Exception as error:  # damaged files raise almost anything
        raise VolumeError(f"{path}: {_reason(error)}") from error


def _check_kind(path: Path) -> None:
    """Raise VolumeError if the first bytes are not of an image that the name says."""
    start = first_bytes(path)
    stranger = describe_stranger(start)
    if stranger is None and start.startswith(b"PK\x03\x04"):
        stranger = "a ZIP archive; unpack it"
    if stranger is not None:
        raise VolumeError(f"expected an image, got {stranger}.")
    # nibabel goes by the name.
    name, compression = path.name.lower(), find_compression(start)
    if name.endswith(".mgz") and compression is None and start:
        raise VolumeError("not compressed, which its name says; rename it to .mgh.")
    if name.endswith(".mgh") and compression == "gzip":
        raise VolumeError("compressed, which its name does not say; rename it to .mgz.")


def _has_suffix(path: Path, suffixes: tuple[str, ...]) -> bool:
    return path.name.lower().endswith(suffixes)


def _read_nifti(path: Path, memory_limit: int, n_volumes: int | None) -> StoredVoxels:
    compression = find_compression(first_bytes(path))
    with _open_decompressed(path, compression) as file:
        layout = read_layout(file)
        check_volumes(layout.shape, layout.dtype, n_volumes)
        check_size(
            layout.shape,
            layout.dtype,
            n_bytes_on_disk=path.stat().st_size,
            memory_limit=memory_limit,
            compression=compression,
        )
        raw = _read_voxels(file, layout)
    scale = layout.slope, layout.intercept
    return StoredVoxels(str(path), raw, layout.affine, *scale, layout.notes)


def _open_decompressed(path: Path, compression: Compression | None) -> Any:
    """Open a file for reading as bytes, without its compression."""
    if compression == "gzip":
        return igzip.open(path, "rb")
    if compression == "zstd":
        import pyarrow as pa  # slow, and rarely needed

        return pa.CompressedInputStream(pa.OSFile(os.fspath(path)), "zstd")
    return path.open("rb")


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


def _files_of(image: Any) -> set[Path]:
    names = {holder.filename for holder in image.file_map.values() if holder.filename}
    return {path for path in map(Path, names) if path.exists()}


def _itk_files_of(path: Path) -> list[Path]:
    voxels = read_itk_header(path).data_file
    return [path] if voxels is None else [path, existing_file(voxels)]


def _read_image(image: SpatialImage, name: str, n_volumes: int | None) -> StoredVoxels:
    proxy: Any = image.dataobj
    shape = tuple(map(int, image.shape))  # numpy integers in FreeSurfer's
    dtype = getattr(proxy, "dtype", image.get_data_dtype())  # missing in MINC's
    try:
        check_volumes(shape, dtype, n_volumes)
    except VolumeError as error:
        raise VolumeError(f"{name}: {error}") from error
    affine, notes = _read_affine(image)
    # Not for subclasses: AFNI's has a scale per volume elsewhere.
    if type(proxy) is nib.arrayproxy.ArrayProxy:
        slope, intercept = float(proxy.slope), float(proxy.inter)
        raw = proxy.get_unscaled()
        return StoredVoxels(name, raw, affine, slope, intercept, notes)
    return StoredVoxels(name, np.asanyarray(proxy), affine, notes=notes)


def _read_affine(
    image: SpatialImage,
) -> tuple[NDArray[np.float64] | None, tuple[str, ...]]:
    """Return the affine in mm, and notes on it."""
    if isinstance(image.header, nib.Nifti1Header) and image.affine is not None:
        return to_millimetres(image.affine, image.header)
    has_matrix = any(path.suffix == ".mat" for path in _files_of(image))
    if isinstance(image, nib.AnalyzeImage) and not has_matrix:
        return image.affine, (NO_ORIENTATION.format("LAS"),)
    return image.affine, ()


def _grid_of(image: Any) -> StoredGrid:
    is_nifti = isinstance(image.header, nib.Nifti1Header)
    return StoredGrid(image.shape, image.affine, image.header if is_nifti else None)


def _reason(error: Exception) -> str:
    if isinstance(error, EOFError):
        return "the compressed file is cut short."
    if isinstance(error, _GZIP_ERRORS):
        return f"not a valid gzip file ({error})."
    if isinstance(error, zlib.error):
        return f"the compressed voxels are damaged ({error})."
    if isinstance(error, PermissionError):
        return "permission denied."
    if isinstance(error, MemoryError):
        return "does not fit into memory."
    # In one line: nibabel's messages may contain line breaks.
    return f"not a readable image ({' '.join(str(error).split())})."
