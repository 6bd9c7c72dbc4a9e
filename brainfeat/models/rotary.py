"""Rotary positions: channels of queries and keys, turned by the position of a token."""

__all__ = ["MIN_VOLUME_CHANNELS", "Rotation", "rotate_image", "rotate_volume"]

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from brainfeat.models.packing import Group, Packing

# Channels that turn with each of the three axes of a volume.
_AXIS_CHANNELS = 20
MIN_VOLUME_CHANNELS = 3 * _AXIS_CHANNELS


class Rotation(NamedTuple):
    """Factors of each channel and of its partner, for each token."""

    cos: Tensor  # (..., N, d)
    sin: Tensor  # (..., N, d), with the sign of the rotation
    partners: Tensor  # (d,): the channel that each one turns with

    @classmethod
    def of(cls, angles: Tensor, partners: Tensor) -> Self:
        """Turn channels, each with its partner, by angles (N, d) in radians."""
        # The first of a pair subtracts the second, which adds the first.
        first = partners > torch.arange(len(partners), device=partners.device)
        return cls(angles.cos(), torch.where(first, -1, 1) * angles.sin(), partners)

    def apply(self, x: Tensor) -> Tensor:
        """Turn queries or keys of shape (..., N, d)."""
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        return torch.addcmul(x * cos, x[..., self.partners], sin)

    def in_group(self, group: Group) -> Self:
        """Return the rotation of a group of packed tokens, the same for all heads."""
        cos, sin = group.rows_of(self.cos), group.rows_of(self.sin)
        return self._replace(cos=cos[:, None], sin=sin[:, None])  # n 1 length d

    def pack(self, packing: Packing, positions: Tensor) -> Self:
        """Arrange the rotation of patches at `positions` (P,) in rows of a packing."""
        still = self.cos.new_zeros(*packing.prefix_rows.shape, self.cos.shape[-1])
        return self._replace(
            cos=packing.pack(still + 1, self.cos[positions]),
            sin=packing.pack(still, self.sin[positions]),
        )

    def at(self, places: Tensor, grid: tuple[int, int, int]) -> Self:
        """Select tokens at places (..., 3) of a grid."""
        shape = (*grid, self.cos.shape[-1])
        cos, sin = self.cos.reshape(shape), self.sin.reshape(shape)
        index = places.unbind(-1)
        return self._replace(cos=cos[index], sin=sin[index])

    def tile(self, n_streams: int) -> Self:
        """Repeat the rotation for the patches of each of several modalities."""
        cos, sin = self.cos.repeat(n_streams, 1), self.sin.repeat(n_streams, 1)
        return self._replace(cos=cos, sin=sin)

    def with_prefix(self, n_tokens: int) -> Self:
        """Put tokens that do not turn before the others."""
        still = self.cos.new_zeros(n_tokens, self.cos.shape[-1])
        cos, sin = torch.cat([still + 1, self.cos]), torch.cat([still, self.sin])
        return self._replace(cos=cos, sin=sin)


def rotate_image(
    grid: tuple[int, int], head_dim: int, *, base: float, device: torch.device
) -> Rotation:
    """Return DINOv3's rotation of the patches of an image.

    Coordinates are centres of patches, from -1 to 1 along each axis. Channel c turns
    with channel c + d/2; a quarter of the channels is for each axis, twice.
    """
    axes = [(torch.arange(n, device=device) + 0.5) / n * 2 - 1 for n in grid]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)
    n_periods = head_dim // 4
    periods = base ** (torch.arange(n_periods, device=device) / n_periods)
    angles = 2 * math.pi * places[:, :, None] / periods  # N 2 d/4
    partners = torch.arange(head_dim, device=device).roll(head_dim // 2)
    return Rotation.of(angles.flatten(1).repeat(1, 2), partners)


def rotate_volume(
    grid: tuple[int, int, int], head_dim: int, *, base: float, device: torch.device
) -> Rotation:
    """Return Neuro-JEPA's rotation of the patches of a volume.

    Twenty channels are for each axis, in pairs of neighbours; further ones do not turn.
    As in the released code, the two channels of a pair have different frequencies, and
    tokens are numbered as if the last two axes were swapped.
    """
    n_tokens, n_periods = math.prod(grid), _AXIS_CHANNELS // 2
    numbers = torch.arange(n_tokens, device=device)
    swapped = (grid[0], grid[2], grid[1])
    places = torch.stack(torch.unravel_index(numbers, swapped), -1)  # N 3
    periods = base ** (torch.arange(n_periods, device=device) / n_periods)
    angles = (places[:, :, None] / periods.repeat(2)).flatten(1)  # N 60
    angles = F.pad(angles, (0, head_dim - angles.shape[1]))
    return Rotation.of(angles, torch.arange(head_dim, device=device) ^ 1)
