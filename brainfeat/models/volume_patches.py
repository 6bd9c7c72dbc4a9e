"""Patches of a volume, and their embedding with positions."""

__all__ = ["VolumePatchEmbed", "cut_patches", "list_places"]

import torch
from torch import Tensor, nn

from brainfeat.models.volume_config import VolumeConfig
from brainfeat.models.volume_positions import (
    CONCATENATED_CHANNELS,
    append_sinusoids,
    make_sinusoids,
    resize_positions,
)

_Sizes = tuple[int, int, int]


class VolumePatchEmbed(nn.Module):
    """One linear map of every patch of a volume, with its position."""

    def __init__(self, config: VolumeConfig) -> None:
        super().__init__()
        self.positions = config.positions
        dim = config.embed_dim
        is_appended = config.positions == "concatenated"
        out_dim = dim - CONCATENATED_CHANNELS if is_appended else dim
        self.proj = nn.Linear(config.in_dim, out_dim)
        if config.positions == "learned":
            self.pos_embed = nn.Parameter(torch.zeros(*config.grid_size, dim))
            nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, patches: Tensor, places: Tensor, grid: _Sizes) -> Tensor:
        """Embed patches (..., n_voxels) at places (..., 3) on a grid: (..., D)."""
        tokens: Tensor = self.proj(patches)
        match self.positions:
            case "learned":
                table = resize_positions(self.pos_embed, grid)
                return tokens + table[places.unbind(-1)]
            case "sinusoidal":
                return tokens + make_sinusoids(places, tokens.shape[-1]).to(tokens)
            case "concatenated":
                return append_sinusoids(tokens, places)
        return tokens


def cut_patches(volumes: Tensor, patch_size: _Sizes) -> Tensor:
    """Cut volumes (B, M, I, J, K) into patches (B, M, i, j, k, n_voxels)."""
    sizes = zip(volumes.shape[2:], patch_size, strict=True)
    shape = [length for size, step in sizes for length in (size // step, step)]
    cut = volumes.reshape(*volumes.shape[:2], *shape)  # B M i p j q k r
    return cut.permute(0, 1, 2, 4, 6, 3, 5, 7).flatten(5)


def list_places(grid: _Sizes, device: torch.device) -> Tensor:
    """Return the index of each patch of a grid along its axes: (i, j, k, 3)."""
    axes = [torch.arange(n, device=device) for n in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
