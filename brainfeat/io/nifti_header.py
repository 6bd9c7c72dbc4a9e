"""NIfTI headers, checked against the size of their file."""

__all__ = [
    "NO_ORIENTATION",
    "NiftiLayout",
    "check_size",
    "describe_unit",
    "read_header",
    "read_layout",
    "to_millimetres",
]

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from brainfeat.exceptions import VolumeError
from brainfeat.io.file_kinds import Compression

_HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
# Limits of the formats, reached for zeros.
_MAX_COMPRESSION = {None: 1, "gzip": 1032, "zstd": 32768}
# Per voxel, measured: float32, with copies during alignment, smoothing and resampling.
_WORKING_BYTES = 20
# Header extensions are short texts.
_MAX_EXTENSION = 1 << 26  # bytes
# By the code in the header; any other is taken for millimetres.
_MILLIMETRES = {1: 1000.0, 3: 0.001}
_UNIT_NAMES = {1000.0: "metres", 0.001: "micrometres"}

NO_ORIENTATION = "no orientation in its header; its axes are taken for {}"


class NiftiLayout(NamedTuple):
    """How the voxels of a file are stored.

    ``n_skipped`` bytes lie between header and voxels. ``affine`` maps indices to
    scanner mm, unchecked. ``notes`` are what the user should know of the header.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    n_skipped: int
    affine: NDArray[np.float64]
    slope: float
    intercept: float
    notes: tuple[str, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of the stored voxels."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_layout(file: BinaryIO) -> NiftiLayout:
    """Read the header at the start of an uncompressed file, and nothing after it."""
    with _naming_damage():
        header = read_header(file)
        return _parse(header, int(header.sizeof_hdr))


def read_header(file: BinaryIO) -> Any:
    """Read the header at the start of an uncompressed file as nibabel's type."""
    start = file.read(4)
    if len(start) < 4:
        raise VolumeError("not a NIfTI file (no header).")
    sizes = {int.from_bytes(start, "little"), int.from_bytes(start, "big")}
    size = next(iter(sizes & _HEADERS.keys()), None)
    if size is None:
        raise VolumeError("not a NIfTI file (header size is not 348).")
    block = start + file.read(size - 4)
    with _naming_damage():
        return _HEADERS[size](block, check=True)


@contextmanager
def _naming_damage() -> Iterator[None]:
    try:
        with np.errstate(all="ignore"):
            yield
    except VolumeError:
        raise
    except Exception as error:  # nibabel raises many types
        text = " ".join(str(error).split())
        reason = "".join(c if c.isprintable() else "?" for c in text)
        raise VolumeError(f"damaged NIfTI header ({reason}).") from error


def check_size(
    shape: Sequence[int],
    dtype: np.dtype[Any],
    *,
    n_bytes_on_disk: int,
    memory_limit: int,
    compression: Compression | None,
) -> None:
    """Raise VolumeError if a file is too small for its shape, or the memory is.

    ``memory_limit`` is in bytes, for an image while it is read and prepared.
    """
    n_voxels = math.prod(shape)
    expected = n_voxels * dtype.itemsize
    limit = n_bytes_on_disk * _MAX_COMPRESSION[compression]
    if expected > limit:
        raise VolumeError(
            f"expected {expected} bytes of data for shape {tuple(shape)}, "
            f"got a file of {n_bytes_on_disk}."
        )
    n_volumes = math.prod(shape[3:])
    # One volume is processed at a time; all are kept, as float32 if there are several.
    kept = dtype.itemsize + (4 if n_volumes > 1 else 0)
    needed = n_voxels * kept + n_voxels // n_volumes * _WORKING_BYTES
    if needed > memory_limit:
        raise VolumeError(
            f"expected a volume that takes at most {memory_limit / 1e9:g} GB of "
            f"memory (--memory-limit), got shape {tuple(shape)}, which takes "
            f"{needed / 1e9:.3g} GB."
        )


def to_millimetres(
    affine: NDArray[np.float64], header: Any
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Convert the affine of a NIfTI header to mm; return notes on the header, too."""
    millimetres = _MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    scale = np.array([millimetres, millimetres, millimetres, 1.0])[:, None]
    return affine * scale, (*describe_unit(millimetres), *_describe_axes(header))


def describe_unit(millimetres: float) -> tuple[str, ...]:
    """Return a note on a unit of so many millimetres, none on the millimetre."""
    unit = _UNIT_NAMES.get(millimetres)
    return () if unit is None else (f"its header is in {unit}, converted to mm",)


def _describe_axes(header: Any) -> Iterator[str]:
    has_sform, has_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if not has_sform and not has_qform:
        yield NO_ORIENTATION.format("LAS")
    if has_sform and has_qform:
        axes = np.array([header[f"srow_{axis}"][:3] for axis in "xyz"], np.float64)
        # The rotation of a qform has no reflection but this.
        sign_of_qform = -1.0 if header["pixdim"][0] < 0 else 1.0
        if np.linalg.det(axes) * sign_of_qform < 0:
            yield (
                "its sform and qform have opposite handedness, so that left may be "
                "right; the sform is used"
            )


def _parse(header: Any, size: int) -> NiftiLayout:
    shape = tuple(int(n) for n in header.get_data_shape())
    if not shape or min(shape) < 1:
        raise VolumeError(f"expected voxels, got shape {shape}.")
    # Zero is the first possible offset.
    offset = float(header["vox_offset"]) or float(header.single_vox_offset)
    if not size <= offset <= size + _MAX_EXTENSION:
        raise VolumeError(
            f"damaged NIfTI header (voxels start at byte {offset:g}, after a header "
            f"of {size})."
        )
    slope, intercept = header.get_slope_inter()
    affine, notes = to_millimetres(header.get_best_affine(), header)
    dtype, n_skipped = header.get_data_dtype(), int(offset) - size
    scale = slope or 1.0, intercept or 0.0
    return NiftiLayout(shape, dtype, n_skipped, affine, *scale, notes)
