"""Voxel lattices in millimetres, and moving values from one to another."""

__all__ = ["Lattice", "refine", "sample_maps", "transform_points"]

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Lattice:
    """Where the voxels of a tensor are, without any image library.

    Parameters
    ----------
    shape : tuple of int (size_i, size_j, size_k)
        Number of voxels along each axis.
    affine : ndarray of shape (4, 4)
        Maps voxel indices to millimetres.

    Examples
    --------
    >>> import numpy as np
    >>> lattice = Lattice((5, 6, 7), np.diag([2.0, 2.0, 2.0, 1.0]))
    >>> lattice.points().shape
    torch.Size([5, 6, 7, 3])
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @classmethod
    def spanning(
        cls,
        origin: tuple[float, float, float],
        size: tuple[float, float, float],
        spacing: float,
    ) -> "Lattice":
        """Build the RAS lattice of cubic voxels that fills a box.

        Parameters
        ----------
        origin : tuple of float
            Left, posterior, inferior corner of the box, in mm.
        size : tuple of float
            Edges of the box, in mm.
        spacing : float
            Voxel edge, in mm.

        Returns
        -------
        Lattice
            The first voxel's corner, not its centre, is at ``origin``.
        """
        i, j, k = (max(1, round(edge / spacing)) for edge in size)
        affine = np.diag([spacing, spacing, spacing, 1.0])
        affine[:3, 3] = np.array(origin) + spacing / 2
        return cls((i, j, k), affine)

    @cached_property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel edge lengths in millimetres, in array-axis order."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    def coarsened(self, spacing: float) -> "Lattice":
        """Lattice whose outer voxels share this one's outer centres.

        Parameters
        ----------
        spacing : float
            Largest distance between neighbouring voxels, in mm.

        Returns
        -------
        Lattice
            At least two voxels along each axis; `refine` leads back.
        """
        i, j, k = (
            max(2, int(np.ceil((n - 1) * edge / spacing)) + 1)
            for n, edge in zip(self.shape, self.spacing, strict=True)
        )
        scale = [(n - 1) / (m - 1) for n, m in zip(self.shape, (i, j, k), strict=True)]
        return Lattice((i, j, k), self.affine @ np.diag([*scale, 1.0]))

    def points(
        self,
        matrix: NDArray[np.float64] | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Positions of the voxel centres.

        Parameters
        ----------
        matrix : ndarray of shape (4, 4), optional
            Applied after the lattice's affine; without it the result is in mm.
        device : torch.device or str
            Where the result is made.

        Returns
        -------
        Tensor of shape (I, J, K, 3)
            Positions, float32.
        """
        affine = self.affine if matrix is None else matrix @ self.affine
        i, j, k = (
            torch.as_tensor(np.arange(n)[:, None] * column, dtype=torch.float32)
            for n, column in zip(self.shape, affine[:3, :3].T, strict=True)
        )
        offset = torch.tensor(affine[:3, 3], dtype=torch.float32)
        i, j, k = i.to(device), j.to(device), (k + offset).to(device)
        return (i[:, None] + j)[:, :, None] + k

    def subdivided(self, factors: tuple[int, int, int]) -> "Lattice":
        """Split each voxel along the axes.

        Parameters
        ----------
        factors : tuple of int
            Number of parts along each axis.

        Returns
        -------
        Lattice
            Averaging as many voxels leads back.
        """
        i, j, k = (n * part for n, part in zip(self.shape, factors, strict=True))
        affine = self.affine @ np.diag([*(1 / np.array(factors)), 1.0])
        affine[:3, 3] -= affine[:3, :3] @ ((np.array(factors) - 1) / 2)
        return Lattice((i, j, k), affine)

    @cached_property
    def normalizer(self) -> NDArray[np.float64]:
        """Affine from mm to the coordinates that `sample_maps` reads.

        They run from -1 to 1 between the outer voxel centres, last axis first.
        """
        half = (np.array(self.shape, dtype=np.float64) - 1) / 2
        to_unit = np.diag([*(1 / half), 1.0])
        to_unit[:3, 3] = -1.0
        matrix: NDArray[np.float64] = to_unit @ np.linalg.inv(self.affine)
        return matrix[[2, 1, 0, 3]]

    def normalize(self, points: Tensor) -> Tensor:
        """Turn positions of shape (..., 3) in mm into coordinates for `sample_maps`."""
        return transform_points(points, torch.as_tensor(self.normalizer))


def transform_points(points: Tensor, matrix: Tensor) -> Tensor:
    """Apply an affine to points.

    Parameters
    ----------
    points : Tensor of shape (B, I, J, K, 3) or (..., 3)
        Positions.
    matrix : Tensor of shape (4, 4) or (B, 4, 4)
        One affine for all, or one for each entry of the batch.

    Returns
    -------
    Tensor
        Of the points' shape (with B in front if the matrix has it).
    """
    matrix = matrix.to(points)
    if matrix.ndim == 2:
        return points @ matrix[:3, :3].T + matrix[:3, 3]
    # One product a batch entry; the singleton axes match I, J.
    rotated = points @ matrix[:, None, None, :3, :3].transpose(-1, -2)
    return rotated + matrix[:, None, None, None, :3, 3]


def sample_maps(
    maps: Tensor, grid: Tensor, *, mode: Literal["bilinear", "nearest"] = "bilinear"
) -> Tensor:
    """Read maps at positions; beyond the outer voxels the border is repeated.

    Parameters
    ----------
    maps : Tensor of shape (B or 1, C, I, J, K)
        Values on a lattice; a single entry serves the whole batch.
    grid : Tensor of shape (B, I2, J2, K2, 3)
        Positions from `Lattice.normalize`.
    mode : {"bilinear", "nearest"}
        Trilinear interpolation, or the nearest voxel for labels.

    Returns
    -------
    Tensor of shape (B, C, I2, J2, K2)
        The maps at the positions.
    """
    return F.grid_sample(
        maps.expand(len(grid), -1, -1, -1, -1),
        grid,
        mode=mode,
        padding_mode="border",
        align_corners=True,
    )


def refine(values: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Interpolate linearly between the voxels of a coarsened lattice.

    Parameters
    ----------
    values : Tensor of shape (B, I, J, K, C)
        Values on the coarse lattice.
    shape : tuple of int
        Shape of the lattice that was coarsened.

    Returns
    -------
    Tensor of shape (B, I2, J2, K2, C)
        Values on the fine lattice; the outer voxels are unchanged.
    """
    i, j, k = (
        _linear_weights(n, m, values)
        for n, m in zip(values.shape[1:4], shape, strict=True)
    )
    # Innermost axis first, so that the largest product is one plain matrix product.
    values = torch.einsum("bijkc,Kk->bijKc", values, k)
    values = torch.einsum("bijKc,Jj->biJKc", values, j)
    fine = i @ values.flatten(2)  # B I2 J2*K2*C
    return fine.reshape(len(values), *shape, values.shape[-1])


def _linear_weights(n_coarse: int, n_fine: int, like: Tensor) -> Tensor:
    position = torch.linspace(0, n_coarse - 1, n_fine, device=like.device)
    knots = torch.arange(n_coarse, device=like.device)
    weights = (1 - (position[:, None] - knots).abs()).clamp(min=0)
    return weights.to(like.dtype)
