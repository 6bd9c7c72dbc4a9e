"""A hierarchical patch embedding."""

__all__ = ["HierarchicalStem", "SquareMerging", "build_stem"]

import torch
from torch import Tensor, nn

from brainfeat.models.config import EncoderConfig
from brainfeat.models.layers import PatchEmbed

# Initial tokens should not dominate their positions.
_OUTPUT_SCALE = 0.1


class HierarchicalStem(nn.Module):
    """Embed patches by a small network for each modality, and sum over modalities.

    Squares of 2 x 2 are merged until a patch is one token, with a linear map and a GELU
    at each level. Nothing crosses patch borders, so masked patches stay hidden. A
    single linear map can encode a patch's mean intensity, but not its histogram. After
    Touvron et al., "Three things everyone should know about vision transformers", ECCV
    2022.
    """

    def __init__(
        self, n_modalities: int, thickness: int, *, embed_dim: int, patch_size: int
    ) -> None:
        super().__init__()
        n_levels = patch_size.bit_length() - 1
        dims = [thickness, *(embed_dim >> i for i in reversed(range(n_levels)))]
        self.thickness = thickness
        self.modalities = nn.ModuleList()
        for _ in range(n_modalities):
            levels: list[nn.Module] = []
            for level in range(n_levels):
                levels += [nn.GELU()] if level else []
                levels.append(SquareMerging(dims[level], dims[level + 1]))
            self.modalities.append(nn.Sequential(*levels))

    def reset_parameters(self) -> None:
        """Draw initial weights; biases are kept."""
        for modality in self.modalities:
            layers = [m for m in modality.modules() if isinstance(m, nn.Linear)]
            for layer in layers:
                nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5)
            layers[-1].weight.data.mul_(_OUTPUT_SCALE)

    def forward(self, pixels: Tensor, present: Tensor | None = None) -> Tensor:
        """Embed patches of the `present` modalities of (B, C, H, W): (B, h, w, D)."""
        slices = pixels.permute(0, 2, 3, 1)  # B H W C
        tokens = pixels.new_zeros(())
        for index, modality in enumerate(self.modalities):
            if _is_absent_everywhere(index, present):
                continue
            first = index * self.thickness
            x = modality(slices[..., first : first + self.thickness])  # B h w D
            if present is not None:
                x = x * present[:, index, None, None, None]
            tokens = tokens + x
        return tokens


class SquareMerging(nn.Module):
    """Merge 2 x 2 neighbours by one linear map."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(4 * in_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, in_dim) to (B, H / 2, W / 2, out_dim)."""
        n_rows, height, width, dim = x.shape
        squares = x.reshape(n_rows, height // 2, 2, width // 2, 2, dim)
        joined: Tensor = self.linear(squares.transpose(2, 3).flatten(3))
        return joined


def _is_absent_everywhere(index: int, present: Tensor | None) -> bool:
    """Whether no image of a batch has a modality, if this is cheap to know."""
    # A GPU would have to synchronise, and in training all weights need gradients.
    if present is None or present.is_cuda or torch.is_grad_enabled():
        return False
    return not present[:, index].any()


def build_stem(config: EncoderConfig) -> PatchEmbed | HierarchicalStem:
    """Build what turns the pixels of a patch into a token."""
    if config.stem == "linear":
        return PatchEmbed(config.in_channels, config.embed_dim, config.patch_size)
    sizes = {"embed_dim": config.embed_dim, "patch_size": config.patch_size}
    return HierarchicalStem(len(config.modalities), config.thickness, **sizes)
