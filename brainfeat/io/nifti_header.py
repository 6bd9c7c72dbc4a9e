"""NIfTI headers, checked against the size of their file."""

__all__ = ["NiftiLayout", "check_size", "read_layout"]

import math
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from brainfeat.exceptions import VolumeError

_HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
# Limit of deflate, reached for zeros.
_MAX_COMPRESSION = 1032
# Per voxel, measured: float32, with copies during alignment, smoothing and resampling.
_WORKING_BYTES = 20
# Header extensions are short texts.
_MAX_EXTENSION = 1 << 26  # bytes


class NiftiLayout(NamedTuple):
    """How the voxels of a file are stored.

    ``n_skipped`` bytes lie between header and voxels. ``affine`` maps indices to
    scanner mm, unchecked.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    n_skipped: int
    affine: NDArray[np.float64]
    slope: float
    intercept: float

    @property
    def n_bytes(self) -> int:
        """Bytes of the stored voxels."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_layout(file: BinaryIO) -> NiftiLayout:
    """Read the header at the start of an uncompressed file, and nothing after it."""
    start = file.read(4)
    if len(start) < 4:
        raise VolumeError("not a NIfTI file (no header).")
    sizes = {int.from_bytes(start, "little"), int.from_bytes(start, "big")}
    size = next(iter(sizes & _HEADERS.keys()), None)
    if size is None:
        raise VolumeError("not a NIfTI file (header size is not 348).")
    block = start + file.read(size - 4)
    try:
        with np.errstate(all="ignore"):
            return _parse(_HEADERS[size](block, check=True), size)
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
    is_compressed: bool,
) -> None:
    """Raise VolumeError if a file is too small for its shape, or the memory is.

    ``memory_limit`` is in bytes, for an image while it is read and prepared.
    """
    n_voxels = math.prod(shape)
    expected = n_voxels * dtype.itemsize
    limit = n_bytes_on_disk * (_MAX_COMPRESSION if is_compressed else 1)
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
    return NiftiLayout(
        shape,
        header.get_data_dtype(),
        int(offset) - size,
        header.get_best_affine(),
        slope or 1.0,
        intercept or 0.0,
    )
