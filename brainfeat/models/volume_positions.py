"""Positions of the patches of a volume, as tokens or parts of tokens."""

__all__ = [
    "CONCATENATED_CHANNELS",
    "append_sinusoids",
    "make_sinusoids",
    "resize_positions",
]

import torch
from torch import Tensor
from torch.nn import functional as F

_BASE = 10_000.0
_AXIS_CHANNELS = 10
CONCATENATED_CHANNELS = 3 * _AXIS_CHANNELS


def resize_positions(stored: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Resample embeddings (i, j, k, D) to another grid of patches, as DINOv2 does."""
    if tuple(stored.shape[:3]) == grid:
        return stored
    # The factor is larger by a tenth of a patch, so that rounding never loses one.
    pairs = zip(grid, stored.shape[:3], strict=True)
    factors = [(n + 0.1) / n_stored for n, n_stored in pairs]
    volume = stored.float().permute(3, 0, 1, 2)[None]  # 1 D i j k
    volume = F.interpolate(volume, scale_factor=factors, mode="trilinear")
    return volume[0].permute(1, 2, 3, 0).to(stored.dtype)


def make_sinusoids(grid: tuple[int, int, int], dim: int, like: Tensor) -> Tensor:
    """Return MONAI's fixed embeddings (i, j, k, D): a sixth of D for each sine."""
    n_periods = dim // 6
    periods = _BASE ** (torch.arange(n_periods, device=like.device) / n_periods)
    angles = _indices(grid, like)[..., None] / periods  # i j k 3 D/6
    waves = torch.cat([angles.sin(), angles.cos()], -1)
    return waves[..., (1, 0, 2), :].flatten(-2).to(like.dtype)  # MONAI's order of axes


def append_sinusoids(tokens: Tensor) -> Tensor:
    """Append ten sines and cosines for each axis to tokens (..., i, j, k, D)."""
    grid = (tokens.shape[-4], tokens.shape[-3], tokens.shape[-2])
    exponents = torch.arange(0, _AXIS_CHANNELS, 2, device=tokens.device)
    angles = _indices(grid, tokens)[..., None] / _BASE ** (exponents / _AXIS_CHANNELS)
    waves = torch.stack([angles.sin(), angles.cos()], -1).flatten(-3)  # i j k 30
    waves = waves.to(tokens.dtype).expand(*tokens.shape[:-1], -1)
    return torch.cat([tokens, waves], -1)


def _indices(grid: tuple[int, int, int], like: Tensor) -> Tensor:
    axes = [torch.arange(n, device=like.device) for n in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).float()  # i j k 3
