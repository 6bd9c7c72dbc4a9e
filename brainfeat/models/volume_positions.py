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


def make_sinusoids(places: Tensor, dim: int) -> Tensor:
    """Return MONAI's fixed embeddings (..., D) at places (..., 3) on a grid."""
    n_periods = dim // 6
    periods = _BASE ** (torch.arange(n_periods, device=places.device) / n_periods)
    angles = places[..., None] / periods  # ... 3 D/6
    waves = torch.cat([angles.sin(), angles.cos()], -1)
    return waves[..., (1, 0, 2), :].flatten(-2)  # MONAI's order of axes


def append_sinusoids(tokens: Tensor, places: Tensor) -> Tensor:
    """Append ten sines and cosines for each axis to tokens at places (..., 3)."""
    exponents = torch.arange(0, _AXIS_CHANNELS, 2, device=places.device)
    angles = places[..., None] / _BASE ** (exponents / _AXIS_CHANNELS)  # ... 3 5
    waves = torch.stack([angles.sin(), angles.cos()], -1).flatten(-3)  # ... 30
    waves = waves.to(tokens.dtype).expand(*tokens.shape[:-1], -1)
    return torch.cat([tokens, waves], -1)
