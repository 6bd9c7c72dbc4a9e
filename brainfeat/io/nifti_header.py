"""Headers of NIfTI files, believed only as far as the file can bear them out."""

__all__ = ["NiftiLayout", "check_size", "read_layout"]

import math
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from brainfeat.exceptions import VolumeError

_HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
# Deflate cannot shrink anything further, not even zeros.
_LARGEST_COMPRESSION = 1032
# Measured: float32 voxels, and copies of them while a volume is located, smoothed and
# resampled.
_WORKING_BYTES = 20
# Extensions hold notes, not images.
_LONGEST_EXTENSION = 1 << 26


class NiftiLayout(NamedTuple):
    """How the voxels of a file are stored, and where they are in the scanner.

    Attributes
    ----------
    shape : tuple of int
        Sizes of all axes.
    dtype : numpy.dtype
        Type of a stored voxel, in the file's byte order.
    n_skipped : int
        Bytes between the header and the voxels.
    affine : ndarray of shape (4, 4)
        Voxel indices to scanner mm; unchecked.
    slope, intercept : float
        Scale of the stored values.
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
    """Read a header, and nothing after it.

    Parameters
    ----------
    file : binary file
        At its start; uncompressed.

    Returns
    -------
    NiftiLayout
        What it says.

    Raises
    ------
    VolumeError
        If it is no header, or says what no file can hold.
    """
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
    except Exception as error:  # nibabel has no one type for a field it cannot read
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
    """Check that a file can hold its voxels, and the memory can as well.

    Parameters
    ----------
    shape : sequence of int
        Sizes of all axes.
    dtype : numpy.dtype
        Type of a stored voxel.
    n_bytes_on_disk : int
        Size of the file.
    memory_limit : int
        Bytes that an image may need while it is read and prepared.
    is_compressed : bool
        Whether the file holds more bytes than its size says.

    Raises
    ------
    VolumeError
        If it is too small for what it claims, or too large to be read.
    """
    n_voxels = math.prod(shape)
    expected = n_voxels * dtype.itemsize
    most = n_bytes_on_disk * (_LARGEST_COMPRESSION if is_compressed else 1)
    if expected > most:
        raise VolumeError(
            f"expected {expected} bytes of data for shape {tuple(shape)}, "
            f"got a file of {n_bytes_on_disk}."
        )
    n_volumes = math.prod(shape[3:])
    # One volume is worked on at a time; all of them are kept, as float32.
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
    # Zero stands for the first place that is possible.
    offset = float(header["vox_offset"]) or float(header.single_vox_offset)
    if not size <= offset <= size + _LONGEST_EXTENSION:
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
