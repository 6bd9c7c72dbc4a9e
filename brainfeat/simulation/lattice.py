"""Voxel lattices in mm, and resampling from one to another."""

__all__ = ["Lattice", "conform_volumes", "refine", "sample_maps", "transform_points"]

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from brainfeat.exceptions import InputError

if TYPE_CHECKING:
    from brainfeat.volume import Volume

_Point = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Lattice:
    """Shape of a voxel grid and the affine from its indices to mm."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @classmethod
    def spanning(cls, origin: _Point, size: _Point, spacing: float) -> "Lattice":
        """Fill a box with cubic voxels in RAS order; `origin` is its lowest corner."""
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
        """Keep the outer voxel centres, with steps of at most `spacing` mm."""
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
        """Return voxel centres (I, J, K, 3) in mm, or mapped further by `matrix`."""
        affine = self.affine if matrix is None else matrix @ self.affine
        i, j, k = (
            torch.as_tensor(np.arange(n)[:, None] * column, dtype=torch.float32)
            for n, column in zip(self.shape, affine[:3, :3].T, strict=True)
        )
        offset = torch.tensor(affine[:3, 3], dtype=torch.float32)
        i, j, k = i.to(device), j.to(device), (k + offset).to(device)
        return (i[:, None] + j)[:, :, None] + k

    def subdivided(self, factors: tuple[int, int, int]) -> "Lattice":
        """Split each voxel along the axes; averaging the parts inverts it."""
        i, j, k = (n * part for n, part in zip(self.shape, factors, strict=True))
        affine = self.affine @ np.diag([*(1 / np.array(factors)), 1.0])
        affine[:3, 3] -= affine[:3, :3] @ ((np.array(factors) - 1) / 2)
        return Lattice((i, j, k), affine)

    @cached_property
    def normalizer(self) -> NDArray[np.float64]:
        """Affine from mm to [-1, 1] between outer voxel centres, last axis first."""
        half = (np.array(self.shape, dtype=np.float64) - 1) / 2
        to_unit = np.diag([*(1 / half), 1.0])
        to_unit[:3, 3] = -1.0
        matrix: NDArray[np.float64] = to_unit @ np.linalg.inv(self.affine)
        return matrix[[2, 1, 0, 3]]

    def normalize(self, points: Tensor) -> Tensor:
        """Convert positions of shape (..., 3) in mm to the grid of `sample_maps`."""
        return transform_points(points, torch.as_tensor(self.normalizer))


def transform_points(points: Tensor, matrix: Tensor) -> Tensor:
    """Apply one affine (4, 4), or one per batch entry (B, 4, 4), to points."""
    matrix = matrix.to(points)
    if matrix.ndim == 2:
        return points @ matrix[:3, :3].T + matrix[:3, 3]
    # One product a batch entry; the singleton axes match I, J.
    rotated = points @ matrix[:, None, None, :3, :3].transpose(-1, -2)
    return rotated + matrix[:, None, None, None, :3, 3]


def sample_maps(
    maps: Tensor, grid: Tensor, *, mode: Literal["bilinear", "nearest"] = "bilinear"
) -> Tensor:
    """Sample maps (B or 1, C, I, J, K) at a grid of `Lattice.normalize`."""
    return F.grid_sample(
        maps.expand(len(grid), -1, -1, -1, -1),
        grid,
        mode=mode,
        padding_mode="border",
        align_corners=True,
    )


def refine(values: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Interpolate (B, i, j, k, C) from a coarsened lattice back to `shape`."""
    i, j, k = (
        _linear_weights(n, m, values)
        for n, m in zip(values.shape[1:4], shape, strict=True)
    )
    # Innermost axis first: the largest product is then one matrix product.
    values = torch.einsum("bijkc,Kk->bijKc", values, k)
    values = torch.einsum("bijKc,Jj->biJKc", values, j)
    fine = i @ values.flatten(2)  # B I2 J2*K2*C
    return fine.reshape(len(values), *shape, values.shape[-1])


def conform_volumes(
    volumes: Sequence["Volume"],
    lattice: Lattice,
    template_to_scanner: NDArray[np.float64] | None = None,
) -> Tensor:
    """Resample volumes on one grid to a lattice, averaging within its voxels."""
    geometry = volumes[0].geometry
    for other in volumes[1:]:
        if not other.geometry.is_close(geometry):
            raise InputError(
                "expected volumes on one grid, got shapes "
                f"{geometry.shape} and {other.geometry.shape}, or different affines."
            )
    source = Lattice(geometry.shape, geometry.affine)
    to_scanner = np.eye(4) if template_to_scanner is None else template_to_scanner
    # Two samples along each axis are enough for coarser voxels.
    factor = min(2, max(1, round(max(lattice.spacing))))
    fine = lattice.subdivided((factor, factor, factor))
    grid = fine.points(source.normalizer @ to_scanner)
    data = np.stack([volume.data for volume in volumes]).astype(np.float32)
    tensor = torch.from_numpy(np.nan_to_num(data, posinf=0.0, neginf=0.0))
    sampled = F.grid_sample(tensor[None], grid[None], align_corners=True)[0]
    return sampled if factor == 1 else F.avg_pool3d(sampled, factor)


def _linear_weights(n_coarse: int, n_fine: int, like: Tensor) -> Tensor:
    position = torch.linspace(0, n_coarse - 1, n_fine, device=like.device)
    knots = torch.arange(n_coarse, device=like.device)
    weights = (1 - (position[:, None] - knots).abs()).clamp(min=0)
    return weights.to(like.dtype)
