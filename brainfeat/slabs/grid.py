"""Sequential slices of a volume as channels of slabs, and back."""

__all__ = ["PLANE_AXES", "Plane", "SlabGrid"]

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from brainfeat.configs import PositiveInt, check_fields
from brainfeat.exceptions import GeometryError

if TYPE_CHECKING:
    # It imports nibabel, which training from a store does not need.
    from brainfeat.volume import Geometry

Plane = Literal["axial", "coronal", "sagittal"]

# Axes of a volume (I=0, J=1, K=2) along the slices, height and width of a slab.
PLANE_AXES: dict[str, tuple[int, int, int]] = {
    "axial": (2, 1, 0),
    "coronal": (1, 2, 0),
    "sagittal": (0, 2, 1),
}


@dataclass(frozen=True, kw_only=True)
class SlabGrid:
    """Cut volumes into slabs of sequential slices, and reassemble them.

    A slab holds `thickness` neighbouring slices of every modality. Channel
    ``m * thickness + s`` is slice ``s`` of modality ``m``.

    Parameters
    ----------
    thickness : int
        Number of sequential slices in a slab.
    plane : {"axial", "coronal", "sagittal"}
        Plane of the slices. In RAS array order an axial slab has its height along
        J (posterior to anterior) and its width along I (left to right); a coronal
        slab has height along K and width along I; a sagittal slab has height along
        K and width along J.

    Raises
    ------
    ConfigError
        If `thickness` is not a positive integer or `plane` is unknown.
    """

    thickness: PositiveInt = 4
    plane: Plane = "axial"

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def axes(self) -> tuple[int, int, int]:
        """Axes of a volume (I=0, J=1, K=2) along slices, height and width of slabs."""
        return PLANE_AXES[self.plane]

    def extract(self, data: NDArray[Any]) -> NDArray[Any]:
        """Cut a multi-modality volume into slabs.

        Parameters
        ----------
        data : ndarray of shape (n_modalities, size_i, size_j, size_k)
            Volumes of one subject on one grid, in RAS array order.

        Returns
        -------
        ndarray of shape (n_slabs, n_modalities * thickness, height, width)
            C-contiguous slabs of the same dtype, first slab first.

        Raises
        ------
        GeometryError
            If `data` is not 4D or its size along the slab axis is not a multiple
            of `thickness`.
        """
        if data.ndim != 4:
            raise GeometryError(
                "SlabGrid.extract: expected shape (n_modalities, size_i, size_j, "
                f"size_k), got {data.shape}."
            )
        slices = data.transpose(self._stacked_axes)  # M S*t H W
        n_modalities, n_slices, height, width = slices.shape
        if n_slices % self.thickness:
            raise GeometryError(
                f"SlabGrid.extract: expected a multiple of {self.thickness} "
                f"{self.plane} slices, got {n_slices}."
            )
        n_slabs, n_channels = n_slices // self.thickness, n_modalities * self.thickness
        slabs = slices.reshape(n_modalities, n_slabs, self.thickness, height, width)
        slabs = slabs.swapaxes(0, 1)  # S M t H W
        return np.ascontiguousarray(slabs.reshape(n_slabs, n_channels, height, width))

    def assemble(self, slabs: NDArray[Any]) -> NDArray[Any]:
        """Reassemble the volume that slabs were cut from.

        Parameters
        ----------
        slabs : ndarray of shape (n_slabs, n_modalities * thickness, height, width)
            Slabs as `extract` returns them, or anything with `thickness` sequential
            channels, such as a label map.

        Returns
        -------
        ndarray of shape (n_modalities, size_i, size_j, size_k)
            C-contiguous volumes of the same dtype, in RAS array order.

        Raises
        ------
        GeometryError
            If `slabs` is not 4D or its channels are not a multiple of `thickness`.
        """
        if slabs.ndim != 4 or slabs.shape[1] % self.thickness:
            raise GeometryError(
                "SlabGrid.assemble: expected shape (n_slabs, n_modalities * "
                f"{self.thickness}, height, width), got {slabs.shape}."
            )
        n_slabs, n_channels, height, width = slabs.shape
        n_modalities = n_channels // self.thickness
        shape = (n_slabs, n_modalities, self.thickness, height, width)
        slices = slabs.reshape(shape).swapaxes(0, 1)  # M S t H W
        slices = slices.reshape(n_modalities, -1, height, width)  # M S*t H W
        return np.ascontiguousarray(slices.transpose(np.argsort(self._stacked_axes)))

    def token_fractions(
        self, foreground: NDArray[np.bool_], patch_size: int
    ) -> NDArray[np.float32]:
        """Compute the fraction of each patch that is foreground.

        Parameters
        ----------
        foreground : ndarray of bool of shape (size_i, size_j, size_k)
            Foreground on the grid of the volumes. Floats from 0 to 1, such as the
            weights of a region, are averaged in the same way.
        patch_size : int
            Edge length of a square patch, in voxels.

        Returns
        -------
        ndarray of float32 of shape (n_slabs, height / patch_size, width / patch_size)
            Values from 0 (all background) to 1 (all foreground).

        Raises
        ------
        GeometryError
            If `foreground` is not 3D or its sizes are not multiples of `thickness`
            and `patch_size`.
        """
        if foreground.ndim != 3:
            raise GeometryError(
                "SlabGrid.token_fractions: expected shape (size_i, size_j, size_k), "
                f"got {foreground.shape}."
            )
        slabs = self.extract(foreground[None])  # S t H W
        n_slabs, _, height, width = slabs.shape
        if patch_size < 1 or height % patch_size or width % patch_size:
            raise GeometryError(
                f"SlabGrid.token_fractions: expected multiples of the patch size "
                f"{patch_size}, got slabs of {height} x {width} pixels."
            )
        n_rows, n_columns = height // patch_size, width // patch_size
        rows = slabs.reshape(n_slabs, self.thickness, n_rows, patch_size, width)
        # Rows first, since they are contiguous in memory.
        sums = rows.sum(axis=(1, 3), dtype=np.float32)  # S h W
        sums = sums.reshape(n_slabs, n_rows, n_columns, patch_size).sum(axis=3)
        return np.asarray(sums / np.float32(self.thickness * patch_size**2))

    def token_geometry(self, geometry: "Geometry", patch_size: int) -> "Geometry":
        """Return the grid of the patch tokens, at the centres of their voxels.

        Parameters
        ----------
        geometry : Geometry
            Grid of the volumes, in RAS array order.
        patch_size : int
            Edge length of a square patch, in voxels.

        Returns
        -------
        Geometry
            Grid with one voxel per token, in the array order of the volumes.

        Raises
        ------
        GeometryError
            If a size is not a multiple of `thickness` or `patch_size`.
        """
        block = np.full(3, patch_size)
        block[self.axes[0]] = self.thickness
        if patch_size < 1 or (np.array(geometry.shape) % block).any():
            raise GeometryError(
                f"SlabGrid.token_geometry: expected multiples of "
                f"{tuple(block.tolist())}, got a grid of {geometry.shape}."
            )
        to_voxel = np.diag([*block.astype(float), 1.0])
        to_voxel[:3, 3] = (block - 1) / 2.0
        i, j, k = np.array(geometry.shape) // block
        return replace(geometry, shape=(i, j, k), affine=geometry.affine @ to_voxel)

    def arrange_tokens(self, tokens: NDArray[Any]) -> NDArray[Any]:
        """Transpose values of tokens to the array order of the volumes.

        Parameters
        ----------
        tokens : ndarray of shape (n_slabs, height, width, ...)
            Patch tokens, or values of each, such as those of `token_fractions`.

        Returns
        -------
        ndarray of shape (size_i, size_j, size_k, ...)
            The same values on the grid of `token_geometry`.
        """
        axes = np.argsort(self.axes)
        return tokens.transpose(*axes, *range(3, tokens.ndim))

    @property
    def _stacked_axes(self) -> tuple[int, ...]:
        """Axes of (M, I, J, K) in the order modality, slices, height, width."""
        return 0, *(axis + 1 for axis in self.axes)
