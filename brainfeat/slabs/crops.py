"""Random crops of volumes, as stacks of slabs: drawn first, then applied."""

__all__ = [
    "CropBoxes",
    "CropConfig",
    "pool_labels",
    "pool_patches",
    "stack_to_slabs",
]

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from brainfeat.configs import Fraction, PositiveInt, Relation, Rule, check_fields
from brainfeat.slabs.grid import PLANE_AXES, Plane

_Ratio = Annotated[float, Rule(">= 1", lambda value: value >= 1)]


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """Size of a crop, and the ranges from which its position and shape are drawn."""

    size: tuple[PositiveInt, PositiveInt] = (80, 80)  # H W, multiples of the patch size
    n_slabs: PositiveInt = 4
    area: tuple[float, float] = (0.5, 1.0)  # fraction of the plane that a crop covers
    aspect: _Ratio = 1.15  # largest change of the aspect ratio
    rotation: float = 15.0  # largest angle in the plane, degrees
    tilt: float = 5.0  # largest angle out of the plane, about both axes, degrees
    thickness_scale: _Ratio = 1.1  # largest change of the slices' distance
    flip: Fraction = 0.5  # probability of a mirror image along the width
    jitter: float = 1.0  # largest distance from the centre, in slabs

    def __post_init__(self) -> None:
        check_fields(self, _relations, allow_lists=True)


def _relations(config: CropConfig) -> Iterator[Relation]:
    low, high = config.area
    yield 0 < low <= high <= 1, "area", "0 < low <= high <= 1"


@dataclass(frozen=True, eq=False)
class CropBoxes:
    """Where the voxels of V crops of B subjects lie in their volumes."""

    matrices: Tensor  # (B, V, 3, 4), from (slice, row, column) to voxels (i, j, k)
    size: tuple[int, int, int]  # n_slices H W

    @classmethod
    def draw(
        cls,
        config: CropConfig,
        shape: tuple[int, int, int],  # I J K of the volumes
        centers: Tensor,  # B, fractions of the slab axis around which crops are drawn
        *,
        n_views: int,
        thickness: int,
        plane: Plane,
        generator: torch.Generator,
    ) -> "CropBoxes":
        """Draw crops of each subject; `generator` is on the CPU."""
        axes = PLANE_AXES[plane]
        extent = torch.tensor([float(shape[axis]) for axis in axes])
        size = (config.n_slabs * thickness, *config.size)
        n = (len(centers), n_views)
        steps = _draw_steps(config, extent, size, n, generator)  # B V 3
        half = steps * (torch.tensor(size) - 1) / 2
        position = torch.rand(*n, 3, generator=generator)
        jitter = config.jitter * thickness * (2 * position[..., 0] - 1)
        position[..., 0] = 0.5
        # In the plane, all of a crop lies inside the volume.
        middle = half + position * (extent - 1 - 2 * half)
        middle[..., 0] = centers[:, None] * extent[0] - 0.5 + jitter  # voxel 0 is at 0
        inside = torch.minimum(half[..., 0], (extent[0] - 1) / 2)
        middle[..., 0] = middle[..., 0].clamp(inside, extent[0] - 1 - inside)
        linear = _draw_rotations(config, n, generator) * steps[..., None, :]
        flipped = torch.rand(*n, generator=generator) < config.flip
        linear[..., 2] *= torch.where(flipped, -1.0, 1.0)[..., None]
        start = middle - (linear @ ((torch.tensor(size) - 1.0) / 2)[:, None])[..., 0]
        crop_to_plane = torch.cat([linear, start[..., None]], dim=-1)  # B V 3 4
        order = torch.tensor(axes).argsort()  # plane axes back to (i, j, k)
        return cls(crop_to_plane[:, :, order], size)

    @classmethod
    def whole(
        cls, shape: tuple[int, int, int], n: tuple[int, int], *, plane: Plane
    ) -> "CropBoxes":
        """Return `n` (B, V) crops that are the volume itself, in slices of a plane."""
        axes = PLANE_AXES[plane]
        order = torch.tensor(axes).argsort()
        matrix = torch.cat([torch.eye(3)[order], torch.zeros(3, 1)], dim=1)
        size_s, size_h, size_w = (shape[axis] for axis in axes)
        return cls(matrix.expand(*n, 3, 4), (size_s, size_h, size_w))

    def repeat(self, n_views: int) -> "CropBoxes":
        """Repeat the first crop of each subject."""
        first = self.matrices[:, :1].expand(-1, n_views, -1, -1)
        return CropBoxes(first, self.size)

    def apply(
        self,
        volumes: Tensor,
        interpolation: Literal["bilinear", "nearest"] = "bilinear",
    ) -> Tensor:
        """Cut the crops out of volumes (B, C, I, J, K): (B, V, C, n_slices, H, W).

        Edges are replicated outside. Use ``"nearest"`` for label maps.
        """
        n_subjects, n_channels, *shape = volumes.shape
        grid = self._grid(shape, volumes)  # B V*n_slices H W 3
        out = F.grid_sample(
            volumes, grid, mode=interpolation, padding_mode="border", align_corners=True
        )  # B C V*n_slices H W
        out = out.view(n_subjects, n_channels, -1, *self.size)
        return out.transpose(1, 2)

    def slab_positions(
        self, shape: tuple[int, int, int], thickness: int, plane: Plane
    ) -> Tensor:
        """Return the position (B, V, S) of slabs along their axis, from 0 to 1."""
        axis = PLANE_AXES[plane][0]
        n_slices, height, width = self.size
        slices = torch.arange(n_slices // thickness) * thickness + (thickness - 1) / 2
        row = self.matrices[:, :, axis]  # B V 4
        middle = row[..., 1] * (height - 1) / 2 + row[..., 2] * (width - 1) / 2
        voxels = slices * row[..., :1] + (middle + row[..., 3])[..., None]  # B V S
        return ((voxels + 0.5) / shape[axis]).clamp(0, 1)

    def coarsen(self, factor: int) -> "CropBoxes":
        """Keep the central one of each `factor` cubed voxels."""
        linear = self.matrices[..., :3]
        start = self.matrices[..., 3] + (factor - 1) / 2 * linear.sum(dim=-1)
        matrices = torch.cat([factor * linear, start[..., None]], dim=-1)
        n_slices, height, width = (length // factor for length in self.size)
        return CropBoxes(matrices, (n_slices, height, width))

    def select(self, first: int, n_slices: int) -> "CropBoxes":
        """Keep `n_slices` neighbouring slices of each crop."""
        linear = self.matrices[..., :3]
        start = self.matrices[..., 3] + first * linear[..., 0]
        matrices = torch.cat([linear, start[..., None]], dim=-1)
        return CropBoxes(matrices, (n_slices, *self.size[1:]))

    def refine(self, factor: int) -> "CropBoxes":
        """Return the same crops of volumes with `factor` cubed times as many voxels."""
        linear = self.matrices[..., :3]
        middle = (factor - 1) / 2
        start = factor * self.matrices[..., 3] + middle * (1 - linear.sum(dim=-1))
        matrices = torch.cat([linear, start[..., None]], dim=-1)
        n_slices, height, width = (length * factor for length in self.size)
        return CropBoxes(matrices, (n_slices, height, width))

    def _grid(self, shape: list[int], like: Tensor) -> Tensor:
        matrices = self.matrices.to(like.device, torch.float32)
        scale = 2.0 / (torch.tensor(shape, device=like.device) - 1).clamp(min=1)
        matrices = matrices * scale[:, None]
        matrices[..., 3] -= 1.0
        # grid_sample takes (x, y, z): the last axis of the volume first.
        matrices = matrices.flip(2)
        axes = [torch.arange(float(n), device=like.device) for n in self.size]
        # Adding three small tables is cheaper than a product for every voxel.
        parts = [
            axis[:, None] * matrices[..., None, :, number]
            for number, axis in enumerate(axes)
        ]  # B V n 3 each
        points = (
            parts[0][:, :, :, None, None]
            + parts[1][:, :, None, :, None]
            + parts[2][:, :, None, None, :]
            + matrices[:, :, None, None, None, :, 3]
        )  # B V n_slices H W 3
        return points.flatten(1, 2).to(like.dtype)


def stack_to_slabs(stacks: Tensor, thickness: int) -> Tensor:
    """Turn stacks (..., M, n_slices, H, W) into slabs (..., S, M * thickness, H, W)."""
    # Channel m * thickness + s is slice s of modality m, as the encoder expects.
    slabs: Tensor = stacks.unflatten(-3, (-1, thickness))  # ... M S t H W
    return slabs.transpose(-5, -4).flatten(-4, -3)


def pool_patches(stacks: Tensor, thickness: int, patch_size: int) -> Tensor:
    """Average maps (B, V, R, n_slices, H, W) over patches: (B, V, S, h, w, R)."""
    n_subjects, n_views, n_maps = stacks.shape[:3]
    window = (thickness, patch_size, patch_size)
    pooled = F.avg_pool3d(stacks.reshape(-1, 1, *stacks.shape[3:]), window)
    pooled = pooled.view(n_subjects, n_views, n_maps, *pooled.shape[2:])
    return pooled.permute(0, 1, 3, 4, 5, 2)


def pool_labels(
    stacks: Tensor, n_labels: int, thickness: int, patch_size: int
) -> Tensor:
    """Return the fraction of each label in patches: (..., S, h, w, L).

    `stacks` (..., n_slices, H, W) have labels from 1 to `n_labels`; 0 is none.
    """
    patches = stacks.long().unflatten(-1, (-1, patch_size))
    patches = patches.unflatten(-3, (-1, patch_size)).unflatten(-5, (-1, thickness))
    # ... S t h p w q
    patches = patches.movedim((-5, -3), (-3, -2)).flatten(-3)  # ... S h w tpq
    counts = patches.new_zeros(*patches.shape[:-1], n_labels + 1, dtype=torch.float32)
    ones = torch.ones((), device=patches.device).expand(patches.shape)
    fractions: Tensor = counts.scatter_add_(-1, patches, ones) / patches.shape[-1]
    return fractions[..., 1:]


def _draw_steps(
    config: CropConfig,
    extent: Tensor,
    size: tuple[int, int, int],
    n: tuple[int, int],
    generator: torch.Generator,
) -> Tensor:
    """Draw distances between voxels of a crop, in voxels of the volume: (B, V, 3)."""
    area = _uniform(config.area, n, generator) * extent[1] * extent[2]
    # A square crop as large as the plane would not fit into an oblong plane.
    stretch = _log_ratio(config.aspect, n, generator)
    side = (area / (size[1] * size[2])).sqrt()
    height = torch.minimum(side * stretch, (extent[1] - 1) / (size[1] - 1))
    width = torch.minimum(side / stretch, (extent[2] - 1) / (size[2] - 1))
    through = _log_ratio(config.thickness_scale, n, generator)
    return torch.stack([through, height, width], dim=-1)


def _draw_rotations(
    config: CropConfig, n: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Draw rotations of (slice, row, column) axes: (B, V, 3, 3)."""
    limits = torch.tensor([config.rotation, config.tilt, config.tilt])
    angles = limits * (2 * torch.rand(*n, 3, generator=generator) - 1)
    cos, sin = torch.deg2rad(angles).cos(), torch.deg2rad(angles).sin()
    rotation = torch.eye(3).expand(*n, 3, 3)
    for axis in range(3):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn = torch.eye(3).repeat(*n, 1, 1)
        turn[..., first, first] = turn[..., second, second] = cos[..., axis]
        turn[..., second, first] = sin[..., axis]
        turn[..., first, second] = -sin[..., axis]
        rotation = turn @ rotation
    return rotation


def _uniform(
    limits: tuple[float, float], n: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * torch.rand(*n, generator=generator)


def _log_ratio(high: float, n: tuple[int, ...], generator: torch.Generator) -> Tensor:
    limit = math.log(high)
    return _uniform((-limit, limit), n, generator).exp()
