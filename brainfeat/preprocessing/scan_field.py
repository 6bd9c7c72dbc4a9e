"""The contrasts of one subject on one grid, between the steps of a recipe."""

__all__ = ["ScanField"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from brainfeat.preprocessing.alignment import Alignment
from brainfeat.volume import Geometry, Volume

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ScanField:
    """Voxels of all contrasts of a subject on the grid of the first."""

    contrasts: tuple[Floats, ...]  # each (I, J, K); the first decides on crops
    geometry: Geometry  # the grid, in millimetres of `to_scanner`
    to_scanner: NDArray[np.float64]  # maps these millimetres to the scanner's
    alignment: Alignment  # of the first contrast
    sources: tuple[Volume, ...]  # as read, in their own order, without NaN
    foreground: Flags | None = None  # voxels that count; None until a step finds them

    @property
    def first(self) -> Floats:
        """The contrast that decides on crops."""
        return self.contrasts[0]

    def lies_on(self, grid: Geometry) -> bool:
        """Whether the voxels are those of a grid in the scanner's space."""
        here = Geometry(self.geometry.shape, self.to_scanner @ self.geometry.affine)
        return here.is_close(grid)

    def map_values(self, function: Callable[[Floats], NDArray[Any]]) -> Self:
        """Replace the voxels of each contrast, on the same grid."""
        values = (function(data) for data in self.contrasts)
        contrasts = tuple(data.astype(np.float32, copy=False) for data in values)
        return replace(self, contrasts=contrasts)

    def on_grid(
        self,
        function: Callable[[NDArray[Any]], NDArray[Any]],
        to_voxel: NDArray[np.float64],
    ) -> Self:
        """Move all arrays to another grid; `to_voxel` maps its voxels to the old ones.

        `function` takes and returns the voxels of a contrast, or the foreground as
        numbers from 0 to 1, of which at least a half is foreground.
        """
        contrasts = tuple(
            function(data).astype(np.float32, copy=False) for data in self.contrasts
        )
        foreground = self.foreground
        if foreground is not None:
            foreground = function(foreground.astype(np.float32)) >= 0.5
        geometry = Geometry(contrasts[0].shape, self.geometry.affine @ to_voxel)
        return replace(
            self, contrasts=contrasts, geometry=geometry, foreground=foreground
        )

    def shifted(
        self, function: Callable[[NDArray[Any]], NDArray[Any]], start: Sequence[int]
    ) -> Self:
        """Crop or pad all arrays; voxel 0 of the result is voxel `start` of these."""
        to_voxel = np.eye(4)
        to_voxel[:3, 3] = start
        return self.on_grid(function, to_voxel)

    def oriented(self, codes: str) -> Self:
        """Permute and flip the axes until they point along `codes`, such as RAS."""
        current = nib.orientations.io_orientation(self.geometry.affine)
        wanted = nib.orientations.axcodes2ornt(tuple(codes))
        change = nib.orientations.ornt_transform(current, wanted)
        to_voxel = nib.orientations.inv_ornt_aff(change, self.geometry.shape)
        return self.on_grid(
            lambda data: nib.orientations.apply_orientation(data, change), to_voxel
        )
