"""Voxels as a file stores them."""

__all__ = ["StoredVoxels", "check_volumes"]

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from brainfeat.exceptions import VolumeError


class StoredVoxels(NamedTuple):
    """An array of the stored shape and type, before slope and intercept.

    ``name`` is the name in errors; ``affine`` maps indices to scanner mm, unchecked.
    ``notes`` are what the user should know of the header.
    """

    name: str
    raw: NDArray[Any]
    affine: NDArray[np.float64] | None
    slope: float = 1.0
    intercept: float = 0.0
    notes: tuple[str, ...] = ()


def check_volumes(
    shape: tuple[int, ...], dtype: np.dtype[Any], n_volumes: int | None
) -> None:
    """Raise VolumeError unless an array holds real numbers of one or more volumes.

    If ``n_volumes`` is 1, more than one 3D volume is refused.
    """
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
