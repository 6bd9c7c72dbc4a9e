"""Decode tokens and voxels into the logits of each class."""

__all__ = ["DecoderConfig", "FineFeatures", "SegmentationDecoder"]

import dataclasses
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brainfeat.configs import JsonConfig, PositiveInt, Rule, check_fields
from brainfeat.exceptions import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig(JsonConfig):
    """Sizes of a `SegmentationDecoder`; saved as JSON beside its weights."""

    _needs_all_keys = True

    # With the background.
    n_classes: Annotated[int, Rule(">= 2", lambda value: value >= 2)]
    n_modalities: PositiveInt  # of the voxels
    embed_dim: PositiveInt  # length of the encoder's tokens
    n_depths: PositiveInt  # encoder blocks whose tokens are used
    upsampling: PositiveInt = 2  # label voxels along an edge of the encoder's voxels
    # Channels of fine voxels; twice as many on the encoder's grid, four times on half
    # of it.
    width: PositiveInt = 16
    # Further maps of positions, as the prior of the decoder that this one started from.
    n_places: Annotated[int, Rule(">= 0", lambda value: value >= 0)] = 0

    def __post_init__(self) -> None:
        check_fields(self)


class FineFeatures(NamedTuple):
    """Fine voxels, and what the first layer makes of each of them."""

    voxels: Tensor  # (B, m, ...) of the modalities that are shown
    features: Tensor  # (B, width, ...)
    shown: Tensor  # (m,) indices of modalities


class SegmentationDecoder(nn.Module):
    """A small U-Net over voxels, with an encoder's tokens added at its coarsest level.

    Its levels are the finest, the encoder's grid, and half of it. Its output corrects a
    prior, the frequency of each class, which speeds up training of small structures.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        width, factor = config.width, config.upsampling
        self.fine = nn.Conv3d(config.n_modalities, width, 3, padding=1)
        self.modality_embed = nn.Parameter(torch.zeros(config.n_modalities, width))
        # One more channel for the foreground of the encoder's grid.
        n_prior = 1 + config.n_classes + config.n_places
        self.middle = nn.Sequential(
            nn.Conv3d(width, 2 * width, 3, padding=1), _ConvBlock(2 * width)
        )
        self.places = nn.Conv3d(n_prior, 2 * width, 1)
        self.merge = nn.Conv3d(width, width, factor, stride=factor)
        self.coarse = nn.Conv3d(2 * width, 4 * width, 3, stride=2, padding=1)
        self.tokens = nn.Linear(config.n_depths * config.embed_dim, 4 * width)
        self.context = nn.Sequential(_ConvBlock(4 * width), _ConvBlock(4 * width))
        self.to_middle = nn.Conv3d(4 * width, 2 * width, 1)
        self.join = nn.Sequential(_ConvBlock(2 * width), _ChannelNorm(2 * width))
        self.to_fine = nn.Conv3d(2 * width, width, 1)
        self.from_voxels = nn.Conv3d(width + config.n_modalities, width, 1)
        self.hidden = nn.Conv3d(width, width, 1)
        self.head = nn.Conv3d(width, config.n_classes, 1)
        # Start close to the prior.
        with torch.no_grad():
            for parameter in self.head.parameters():
                parameter.mul_(0.1)

    def forward(
        self,
        voxels: Tensor,
        foreground: Tensor,
        tokens: Sequence[Tensor],
        log_prior: Tensor,
        *,
        present: Tensor | None = None,
    ) -> Tensor:
        """Compute logits (B, K, n_slices * u, H * u, W * u); u is the upsampling.

        `voxels` (B, M, n_slices * u, H * u, W * u) are z-scores, `foreground`
        (B, 1, n_slices, H, W) is 0 to 1 on the encoder's grid, `tokens` are the patch
        tokens (B, S, h, w, D) of each depth, and `log_prior` (B, K + n_places,
        n_slices, H, W) is the log frequency of each class, before further maps. Voxels
        of modalities that are not `present` (B, M) are ignored. Raises an InputError
        if the shapes do not fit.
        """
        self._check_shapes(voxels, foreground, tokens)
        fine = self.look(voxels, present)
        placed = self.place_tokens(tokens, foreground.shape[2:])
        context = self.context_of(fine, foreground, placed, log_prior)
        return self.refine(fine, context, log_prior)

    def place_tokens(self, tokens: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Interpolate tokens on half of a grid of `size`, (B, 4 * width, ...)."""
        patches = self.tokens(torch.cat([*tokens], -1))  # B S h w 4*width
        return _resized(patches.permute(0, 4, 1, 2, 3), [-(-n // 2) for n in size])

    def look(self, voxels: Tensor, present: Tensor | None = None) -> FineFeatures:
        """Compute features of fine voxels; takes what `forward` takes."""
        shown = torch.arange(voxels.shape[1], device=voxels.device)
        if present is not None:
            # Modalities that all rows lack would cost as much as others.
            if present.any():
                shown = shown[present.any(0)]
            voxels, is_shown = voxels[:, shown], present[:, shown]
            if not is_shown.all():
                voxels = voxels.masked_fill(~is_shown[:, :, None, None, None], 0.0)
        voxels = _channels_last(voxels)
        weight, bias = self.fine.weight[:, shown], self.fine.bias
        # With one modality, torch takes the voxels for channels first: all that follows
        # would mix both orders, which is slow.
        features = _channels_last(F.conv3d(voxels, weight, bias, padding=1))
        if present is not None:
            absent = (~present).to(features.dtype) @ self.modality_embed  # B width
            features = features.add_(absent[:, :, None, None, None])
        return FineFeatures(voxels, F.relu_(features), shown)

    def context_of(
        self, fine: FineFeatures, foreground: Tensor, placed: Tensor, log_prior: Tensor
    ) -> Tensor:
        """Compute features (B, 2 * width, n_slices, H, W) on the encoder's grid.

        Takes features of `look`, tokens of `place_tokens`, and what `forward` takes.
        All may be cut to a box that starts at even voxels. The cost does not depend on
        the classes.
        """
        prior = _channels_last(torch.cat([foreground, log_prior], 1))
        merged = self.merge(_channels_last(fine.features))
        x = self.middle(merged) + _pointwise(self.places, prior)
        y = self.context(self.coarse(x) + placed)
        x = x + _resized(_pointwise(self.to_middle, y), x.shape[2:])
        context: Tensor = F.relu_(self.join(x))
        return context

    def refine(
        self,
        fine: FineFeatures,
        context: Tensor,
        log_prior: Tensor,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Compute logits (B, K, n_slices * u, H * u, W * u) from `context_of`.

        All may be cut to a box: a score depends on the next voxel around it. Of
        flattened voxels, only those at the indices `rows` (n,) if they are given: then
        the logits are of shape (n, K).
        """
        size = fine.voxels.shape[2:]
        near = _resized(_pointwise(self.to_fine, context), size)
        # The prior may be of a higher precision than products under autocast.
        prior = _channels_last(log_prior[:, : self.config.n_classes])
        parts = [fine.features, fine.voxels, near, _resized(prior, size)]
        if rows is None:
            features, voxels, near, logits = (part.movedim(1, -1) for part in parts)
        else:
            features, voxels, near, logits = (_take(part, rows) for part in parts)
        weight, width = self.from_voxels.weight.flatten(1), self.config.width
        z = F.linear(features, weight[:, :width], self.from_voxels.bias)
        z = z.add_(F.linear(voxels, weight[:, width:][:, fine.shown]))
        z = F.relu_(_linear(self.hidden, F.relu_(z.add_(near))))
        logits = logits.add_(_linear(self.head, z))
        return logits.movedim(-1, 1) if rows is None else logits

    def _check_shapes(
        self, voxels: Tensor, foreground: Tensor, tokens: Sequence[Tensor]
    ) -> None:
        config = self.config
        grid = [size * config.upsampling for size in foreground.shape[2:]]
        expected = (len(foreground), config.n_modalities, *grid)
        if foreground.ndim != 5 or voxels.shape != expected:
            shape = tuple(voxels.shape)
            raise InputError(f"voxels: expected shape {expected}, got {shape}.")
        if [t.shape[-1] for t in tokens] != [config.embed_dim] * config.n_depths:
            raise InputError(
                f"tokens: expected {config.n_depths} depths of length "
                f"{config.embed_dim}, got {[tuple(t.shape) for t in tokens]}."
            )


class _ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, D, H, W), independent of the crop."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each voxel on its own."""
        return super().forward(x.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)


class _ConvBlock(nn.Module):
    """A residual block: norm, ReLU and a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _ChannelNorm(width)
        self.conv = nn.Conv3d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, D, H, W) to the same shape."""
        y: Tensor = x + self.conv(F.relu_(self.norm(x)))
        return y


def _pointwise(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """Apply a convolution of kernel 1 to (B, C, D, H, W)."""
    return _linear(conv, x.movedim(1, -1)).movedim(-1, 1)


def _linear(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """Apply a convolution of kernel 1 to channels that come last.

    As products of matrices, which are several times as fast as torch's convolution.
    """
    return F.linear(x, conv.weight.flatten(1), conv.bias)


def _take(x: Tensor, rows: Tensor) -> Tensor:
    """Return the channels (n, C) of voxels of (B, C, D, H, W)."""
    return x.movedim(1, -1).flatten(0, 3).index_select(0, rows)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    # Autocast would interpolate in float32, with copies to it and back.
    with torch.autocast(x.device.type, enabled=False):
        return F.interpolate(x, size, mode="trilinear", align_corners=False)
