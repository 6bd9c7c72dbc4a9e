"""In-memory 3D volumes and the geometry that places them in the scanner."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from brainfeat.display.planes import planes_html
from brainfeat.display.summarised import Summarised, format_facts
from brainfeat.exceptions import GeometryError, VolumeError

__all__ = ["Geometry", "Volume", "format_spacing", "slice_thickness"]


@dataclass(frozen=True, eq=False, repr=False)
class Geometry:
    """Where a voxel grid lies in scanner space.

    Parameters
    ----------
    shape : tuple of int (size_i, size_j, size_k)
        Number of voxels along each array axis.
    affine : ndarray of shape (4, 4)
        Maps voxel indices to scanner coordinates in millimetres, RAS+.
        A read-only float64 copy is kept.

    Raises
    ------
    GeometryError
        If ``shape`` is not three positive sizes, or ``affine`` is not a
        finite, invertible 4x4 matrix.

    Examples
    --------
    >>> import numpy as np
    >>> geometry = Geometry((10, 20, 30), np.diag([-1.0, 1.0, 2.5, 1.0]))
    >>> geometry.orientation, geometry.spacing
    ('LAS', (1.0, 1.0, 2.5))
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        shape = tuple(int(size) for size in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise GeometryError(f"expected three positive sizes, got shape {shape}.")
        affine = np.array(self.affine, dtype=np.float64)
        _check_affine(affine)
        affine.flags.writeable = False
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    def __repr__(self) -> str:
        return f"<Geometry: {_describe_grid(self)}>"

    @cached_property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel edge lengths in millimetres, in array-axis order."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @cached_property
    def orientation(self) -> str:
        """Anatomical direction in which each array axis grows, such as ``'RAS'``."""
        return "".join(nib.orientations.aff2axcodes(self.affine))

    @cached_property
    def center(self) -> NDArray[np.float64]:
        """Scanner coordinates of the middle of the grid, in millimetres."""
        middle = (np.array(self.shape, dtype=np.float64) - 1.0) / 2.0
        return self.affine[:3, :3] @ middle + self.affine[:3, 3]

    def is_close(self, other: "Geometry", *, tolerance: float = 1e-3) -> bool:
        """Whether both grids have the same shape and voxel positions.

        Parameters
        ----------
        other : Geometry
            The grid to compare with.
        tolerance : float
            Largest distance between corresponding corners, in mm.

        Returns
        -------
        bool
            True if no corner moves by more than ``tolerance``.
        """
        if self.shape != other.shape:
            return False
        last = np.array(self.shape)[:, None] - 1
        corners = np.indices((2, 2, 2)).reshape(3, -1) * last
        homogeneous = np.vstack([corners, np.ones(corners.shape[1])])
        moved = (self.affine - other.affine)[:3] @ homogeneous
        return bool(np.linalg.norm(moved, axis=0).max() <= tolerance)


@dataclass(frozen=True, eq=False, repr=False)
class Volume(Summarised):
    """One 3D array and its geometry.

    Parameters
    ----------
    data : ndarray of shape (size_i, size_j, size_k)
        Intensities, labels or a boolean mask.
    geometry : Geometry
        Grid of the voxels; its shape must be that of ``data``.
    path : Path, optional
        File that the volume was read from.

    Raises
    ------
    VolumeError
        If ``data`` is not a three-dimensional array of real numbers, or does not fit
        ``geometry``.
    """

    data: NDArray[Any]
    geometry: Geometry
    path: Path | None = None

    def __post_init__(self) -> None:
        is_array = isinstance(self.data, np.ndarray)
        if not is_array or self.data.dtype.kind not in "biuf":
            kind = self.data.dtype if is_array else type(self.data).__name__
            raise VolumeError(f"expected an array of real numbers, got {kind}.")
        if self.data.ndim != 3:
            raise VolumeError(f"expected one 3D volume, got shape {self.data.shape}.")
        if self.data.shape != self.geometry.shape:
            raise VolumeError(
                f"expected data of the geometry's shape {self.geometry.shape}, "
                f"got {self.data.shape}."
            )

    def summary(self) -> str:
        """Describe the grid, the values and the file.

        Returns
        -------
        str
            Lines for a terminal.
        """
        known = self.data[np.isfinite(self.data)]
        values = f"{known.min():g} to {known.max():g}" if known.size else "none finite"
        i, j, k = self.geometry.center
        facts = {
            "grid": _describe_grid(self.geometry),
            "center": f"{i:.1f}, {j:.1f}, {k:.1f} mm",
            "values": f"{values}, {self.data.dtype}",
            "file": "" if self.path is None else str(self.path),
        }
        return format_facts(facts.items())

    def _headline(self) -> str:
        file = "" if self.path is None else f", {self.path.name}"
        return f"{_describe_grid(self.geometry)}, {self.data.dtype}{file}"

    def _details_html(self) -> str:
        to_ras = nib.orientations.io_orientation(self.geometry.affine)
        data = nib.orientations.apply_orientation(self.data, to_ras)
        axes = np.argsort(to_ras[:, 0])
        return planes_html(data, [self.geometry.spacing[int(a)] for a in axes])


def format_spacing(spacing: Sequence[float]) -> str:
    """Write voxel edges in mm as a table has them.

    >>> format_spacing((0.9375, 1.0, 1.2000000477))
    '0.94x1.0x1.2'
    """
    return "x".join(str(round(float(edge), 2)) for edge in spacing)


def slice_thickness(text: str) -> float | None:
    """Read the longest edge in mm of what `format_spacing` wrote; None if it is not so.

    >>> slice_thickness("0.94x1.0x1.2")
    1.2
    """
    try:
        return max(map(float, text.split("x")))
    except ValueError:
        return None


def _describe_grid(geometry: Geometry) -> str:
    sizes = " x ".join(map(str, geometry.shape))
    edges = format_spacing(geometry.spacing).replace("x", " x ")
    return f"{sizes} voxels of {edges} mm, {geometry.orientation}"


def _check_affine(affine: NDArray[np.float64]) -> None:
    if affine.shape != (4, 4):
        raise GeometryError(f"expected a 4x4 affine, got shape {affine.shape}.")
    if not np.isfinite(affine).all():
        raise GeometryError("expected a finite affine, got NaN or infinite values.")
    if not np.array_equal(affine[3], [0.0, 0.0, 0.0, 1.0]):
        raise GeometryError(f"expected an affine of last row 0 0 0 1, got {affine[3]}.")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    # Relative to the voxel size, so that micrometre grids are not singular.
    unit = affine[:3, :3] / np.where(lengths == 0, 1.0, lengths)
    if (lengths == 0).any() or abs(np.linalg.det(unit)) < 1e-6:
        raise GeometryError(
            "expected an affine that can be inverted, "
            f"got voxel edges of {lengths.round(6).tolist()} mm."
        )
