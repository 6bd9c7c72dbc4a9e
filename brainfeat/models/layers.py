"""Layers of DINOv2's vision transformer, and a convolution over neighbouring slabs."""

__all__ = [
    "NORM_EPS",
    "Attention",
    "Block",
    "BlockConfig",
    "LayerScale",
    "PatchEmbed",
    "SlabMixing",
    "drop_path",
    "interpolate_positions",
    "interpolate_slab_positions",
]

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brainfeat.models.config import NORM_EPS
from brainfeat.models.feed_forward import ExpertConfig, ExpertMlp, Gelu, Mlp, SwiGLU
from brainfeat.models.packing import Packing
from brainfeat.models.rotary import Rotation

_SHORT = 256  # tokens, whose scores fit into a CPU's cache


class PatchEmbed(nn.Module):
    """One linear map of every patch, over all channels."""

    def __init__(self, in_channels: int, embed_dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dim, patch_size, stride=patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed the patches of pixels (B, C, H, W): (B, h, w, D)."""
        # Not a convolution: in bfloat16, oneDNN's of 12 channels in 8 x 8 patches gives
        # noise on processors with AMX (seen with torch 2.13).
        size = self.proj.kernel_size[0]
        n_rows, n_channels, height, width = pixels.shape
        grid = (height // size, size, width // size, size)
        patches = pixels.reshape(n_rows, n_channels, *grid)
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)  # B h w C*p*p
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """Sizes and parts of a `Block`; DINOv2's where they have a default."""

    dim: int
    num_heads: int
    hidden_dim: int
    ffn: Literal["mlp", "swiglu"] = "mlp"
    gelu: Gelu = "exact"
    experts: ExpertConfig | None = None  # in place of one feed-forward layer
    layer_scale: float | None = 1e-5  # initial; None for branches without factors
    drop_rate: float = 0.0  # of stochastic depth
    norm_eps: float = NORM_EPS
    qkv_bias: bool = True
    proj_bias: bool = True
    gate: bool = False  # whether each token scales the output of each head


class Attention(nn.Module):
    """Multi-head self-attention with one matrix for query, key and value."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        qkv_bias: bool = True,
        proj_bias: bool = True,
        gate: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim, bias=proj_bias)
        self.gate = nn.Linear(dim, num_heads) if gate else None

    def forward(
        self,
        x: Tensor,
        packing: Packing | None = None,
        rotation: Rotation | None = None,
    ) -> Tensor:
        """Attend within each image, to tokens (B, N, D), or (T, D) if packed."""
        qkv = self.qkv(x)  # B N 3D
        if packing is None:
            mixed = self._attend(qkv, rotation=rotation)
        else:
            parts = []
            for group in packing.groups:
                slabs = group.rows_of(qkv)
                turn = None if rotation is None else rotation.in_group(group)
                part = self._attend(slabs, group.key_mask, turn)
                parts.append(part.flatten(0, 1))
            # Without any foreground there is no group.
            mixed = torch.cat(parts) if parts else torch.zeros_like(x)
        if self.gate is not None:
            heads = mixed.reshape(*mixed.shape[:-1], self.num_heads, -1)
            mixed = (heads * self.gate(x).sigmoid()[..., None]).flatten(-2)
        out: Tensor = self.proj(mixed)
        return out

    def _attend(
        self,
        qkv: Tensor,
        key_mask: Tensor | None = None,
        rotation: Rotation | None = None,
    ) -> Tensor:
        """Attend to tokens with queries, keys and values of shape (B, N, 3 * D)."""
        heads = qkv.reshape(*qkv.shape[:2], 3, self.num_heads, -1)  # B N 3 heads d
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # B heads N d
        if rotation is not None:
            q, k = rotation.apply(q), rotation.apply(k)
        is_half_on_cpu = qkv.device.type == "cpu" and qkv.dtype == torch.bfloat16
        is_short = qkv.shape[1] <= _SHORT
        if is_half_on_cpu and is_short and not torch.is_grad_enabled():
            x = _attend_by_products(q, k, v, key_mask)
        else:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask)
        return x.transpose(1, 2).flatten(2)  # B N D


class LayerScale(nn.Module):
    """A learned factor for each channel of a residual branch."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """Scale each channel."""
        return x * self.gamma


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        dim, scale, eps = config.dim, config.layer_scale, config.norm_eps
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(
            dim,
            config.num_heads,
            qkv_bias=config.qkv_bias,
            proj_bias=config.proj_bias,
            gate=config.gate,
        )
        self.ls1 = None if scale is None else LayerScale(dim, scale)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = _feed_forward(config)
        self.ls2 = None if scale is None else LayerScale(dim, scale)
        self.drop_rate = config.drop_rate

    def forward(
        self,
        x: Tensor,
        packing: Packing | None = None,
        rotation: Rotation | None = None,
    ) -> Tensor:
        """Add attention, then the feed-forward layer, to (B, N, D) or packed (T, D)."""
        x = self._add(x, self.attn(self.norm1(x), packing, rotation), self.ls1, packing)
        return self._add(x, self.mlp(self.norm2(x)), self.ls2, packing)

    def _add(
        self,
        x: Tensor,
        branch: Tensor,
        scale: LayerScale | None,
        packing: Packing | None,
    ) -> Tensor:
        is_kept = not (self.training and self.drop_rate)
        if is_kept and scale is not None:
            return torch.addcmul(x, branch, scale.gamma)  # in one pass over memory
        branch = branch if scale is None else scale(branch)
        if is_kept:
            return x + branch
        samples = None if packing is None else packing.row_slabs
        return x + drop_path(branch, self.drop_rate, samples)


def _feed_forward(config: BlockConfig) -> Mlp | SwiGLU | ExpertMlp:
    if config.experts is not None:
        return ExpertMlp(config.dim, config.experts, gelu=config.gelu)
    if config.ffn == "swiglu":
        return SwiGLU(config.dim, config.hidden_dim)
    return Mlp(config.dim, config.hidden_dim, gelu=config.gelu)


class SlabMixing(nn.Module):
    """Depthwise 3x3x3 convolution over neighbouring slabs and patches."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.conv = nn.Conv3d(dim, dim, 3, padding=1, groups=dim)
        # A new layer changes nothing until it is trained.
        for parameter in self.conv.parameters():
            nn.init.zeros_(parameter)

    def forward(self, patch_tokens: Tensor, packing: Packing | None = None) -> Tensor:
        """Add the convolved tokens (B, S, h, w, D), or (T, D) without background."""
        normed = self.norm(patch_tokens)
        if packing is None:
            return patch_tokens + self._convolve(normed)
        update = self._convolve(packing.spread(normed)).flatten(0, 3)  # BShw D
        update = update[packing.patches].to(patch_tokens.dtype)
        return patch_tokens.index_add(0, packing.patch_rows, update)

    def _convolve(self, patch_tokens: Tensor) -> Tensor:
        """Convolve patch tokens of shape (B, S, h, w, D)."""
        # Three 2D convolutions, one for each neighbouring slab: 4.6 times as fast on a
        # CPU as a 3D one, whose bfloat16 gradient is wrong for two slabs.
        n_rows, n_slabs, height, width, dim = patch_tokens.shape
        padded = F.pad(patch_tokens, (0, 0, 0, 0, 0, 0, 1, 1))
        update = torch.zeros((), device=padded.device)
        for offset in range(3):
            slabs = padded[:, offset : offset + n_slabs].flatten(0, 1)  # BS h w D
            kernel = self.conv.weight[:, :, offset]
            # The permuted view is channels-last memory, which convolves fastest.
            slabs = F.conv2d(slabs.permute(0, 3, 1, 2), kernel, padding=1, groups=dim)
            update = update + slabs.permute(0, 2, 3, 1)
        if self.conv.bias is not None:
            update = update + self.conv.bias
        return update.reshape(n_rows, n_slabs, height, width, dim)


def _attend_by_products(
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None
) -> Tensor:
    """Attend as `scaled_dot_product_attention`, to short bfloat16 rows on a CPU."""
    # Its kernel there is slower than two products whose scores fit into the cache.
    scores = (q * q.shape[-1] ** -0.5) @ k.mT  # B heads N N
    if key_mask is not None:
        scores = scores.masked_fill_(~key_mask, -torch.inf)
    mixed: Tensor = scores.softmax(-1) @ v
    return mixed


def drop_path(x: Tensor, rate: float, samples: Tensor | None = None) -> Tensor:
    """Zero samples at random and scale the others up (stochastic depth)."""
    # samples gives the sample of each row of x if a sample has several.
    if rate == 0.0:
        return x
    keep = x.new_empty((len(x),) + (1,) * (x.ndim - 1)).bernoulli_(1.0 - rate)
    if samples is not None:
        keep = keep[samples]
    return x * (keep / (1.0 - rate))


def interpolate_positions(
    positions: Tensor,
    size: tuple[int, int],
    mode: Literal["bicubic", "antialiased"] = "bicubic",
) -> Tensor:
    """Resample position embeddings (h, w, D) to another grid of patches, in float32.

    Plain bicubic interpolation is that of DINOv2 in transformers; Meta's code also
    shifts the grid, by less than a quarter of a stored patch. Models with registers use
    antialiasing in both.
    """
    if tuple(positions.shape[:2]) == tuple(size):
        return positions
    grid = positions.float().permute(2, 0, 1)[None]  # 1 D h w
    smooth = mode == "antialiased"
    grid = F.interpolate(grid, size=size, mode="bicubic", antialias=smooth)
    return grid[0].permute(1, 2, 0).to(positions.dtype)


def interpolate_slab_positions(stored: Tensor, positions: Tensor) -> Tensor:
    """Interpolate stored embeddings (n, D) at positions (...) from 0 to 1: (..., D)."""
    # Embedding i is at (i + 0.5) / n; constant beyond the ends.
    last = len(stored) - 1
    index = (positions * len(stored) - 0.5).clamp(0, last)
    below = index.floor().long()
    fraction = (index - below)[..., None]
    above = (below + 1).clamp(max=last)
    return stored[below] * (1 - fraction) + stored[above] * fraction
