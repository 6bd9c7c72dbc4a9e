"""A native grid in closest-RAS order, that maps are computed on in boxes."""

__all__ = ["NativeView"]

from dataclasses import dataclass
from typing import Any, Self

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from brainfeat.preprocessing.resampling import reorient_to_ras
from brainfeat.segmentation.boxes import Box, crop_geometry
from brainfeat.segmentation.inputs import NativeGrid
from brainfeat.volume import Geometry, Volume


@dataclass(frozen=True, eq=False)
class NativeView:
    """A native grid whose axes are in closest-RAS order.

    So that what is computed in boxes is the same in any order of the grid's axes.
    """

    grid: NativeGrid
    native: Geometry

    @classmethod
    def of(cls, grid: NativeGrid) -> Self:
        """Reorder the axes of a native grid."""
        blank = np.broadcast_to(np.float32(0.0), grid.geometry.shape)
        ras = reorient_to_ras(Volume(blank, grid.geometry)).geometry
        return cls(grid._replace(geometry=ras), grid.geometry)

    def empty(self, dtype: type[np.generic]) -> NDArray[Any]:
        """Return zeros, in Fortran order as samples are."""
        return np.zeros(self.grid.geometry.shape, dtype, order="F")

    def back(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return an array in the order of the native grid."""
        return _reorder(values, self.grid.geometry, self.native)

    def cut(self, box: Box) -> NativeGrid:
        """Return a box as a grid."""
        return self.grid._replace(geometry=crop_geometry(self.grid.geometry, box))

    def box_of(self, fine: Geometry, to_scanner: NDArray[np.float64]) -> Box | None:
        """Return the native box that holds a fine grid; None if it is elsewhere."""
        affine = np.linalg.inv(self.grid.geometry.affine) @ to_scanner @ fine.affine
        corners = np.indices((2, 2, 2)).reshape(3, -1)
        corners = corners * (np.array(fine.shape)[:, None] - 1)
        voxels = affine[:3, :3] @ corners + affine[:3, 3:]
        shape = np.array(self.grid.geometry.shape)
        start = np.maximum(np.floor(voxels.min(axis=1)), 0).astype(int)
        stop = np.minimum(np.ceil(voxels.max(axis=1)) + 1, shape).astype(int)
        if (start >= stop).any():
            return None
        return tuple(map(slice, start.tolist(), stop.tolist()))


def _reorder(values: NDArray[Any], here: Geometry, there: Geometry) -> NDArray[Any]:
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(here.affine),
        nib.orientations.io_orientation(there.affine),
    )
    result: NDArray[Any] = nib.orientations.apply_orientation(values, turn)
    return result
