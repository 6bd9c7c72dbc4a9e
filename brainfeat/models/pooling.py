"""Pool the tokens of a subject into one vector, without background."""

__all__ = [
    "PoolingMode",
    "pool_feature",
    "pool_regions",
    "pool_tissues",
    "pool_tokens",
    "pool_volumes",
]

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from brainfeat.exceptions import ConfigError, InputError
from brainfeat.models.protocol import EncoderOutput, Feature

PoolingMode = Literal["mean", "cls", "cls+mean", "default"]
_TOKEN_MODES = ("mean", "cls", "cls+mean")


def pool_tokens(
    output: EncoderOutput, token_fractions: Tensor, mode: PoolingMode = "mean"
) -> Tensor:
    """Average the tokens of each subject over its brain: float32 (B, D) or (B, 2 * D).

    `token_fractions` (B, S, h, w) are foreground fractions, which weight the patch
    tokens; the class token of a slab weighs as much as its slab. ``"cls+mean"``
    concatenates both.
    """
    if mode not in _TOKEN_MODES:
        raise ConfigError(f"pooling: expected one of {_TOKEN_MODES}, got {mode!r}.")
    if token_fractions.shape != output.patch_tokens.shape[:4]:
        raise InputError(
            f"token_fractions: expected shape {tuple(output.patch_tokens.shape[:4])}, "
            f"got {tuple(token_fractions.shape)}."
        )
    weights = token_fractions.to(output.patch_tokens.device, torch.float32)
    totals = weights.sum(dim=(1, 2, 3), keepdim=True)  # B 1 1 1
    if not bool((totals > 0).all()):
        rows = (totals.flatten() <= 0).nonzero().flatten().tolist()
        raise InputError(
            f"token_fractions: expected foreground, got none in rows {rows}."
        )
    weights = weights / totals
    parts = []
    if mode in {"cls", "cls+mean"}:
        cls_token = output.require_cls_token().float()
        if cls_token.ndim == 3:  # of each slab
            slab_weights = weights.sum(dim=(2, 3))  # B S
            cls_token = torch.einsum("bs,bsd->bd", slab_weights, cls_token)
        parts.append(cls_token)
    if mode in {"mean", "cls+mean"}:
        tokens = output.patch_tokens.float()
        parts.append(torch.einsum("bshw,bshwd->bd", weights, tokens))
    return torch.cat(parts, dim=1)


def pool_feature(output: EncoderOutput, encoded: Tensor, feature: Feature) -> Tensor:
    """Return what the authors of an encoder of volumes use: float32 (B, D).

    Their mean is over all tokens that are `encoded` (B, i, j, k), background or not.
    """
    if feature == "cls":
        return output.require_cls_token().float()
    if feature == "first":
        return output.patch_tokens[:, 0, 0, 0].float()
    return pool_tokens(output, encoded.float(), "mean")


def pool_tissues(
    output: EncoderOutput,
    token_fractions: Tensor,
    weight: Tensor,
    bias: Tensor,
    n_tissues: int | None = None,
) -> Tensor:
    """Estimate the fraction (B, R) of each structure in the brain from patch tokens.

    `weight` (R, D) and `bias` (R,) are the encoder's map from a patch token to what it
    reads, of which the first `n_tissues` (all by default) add up to the brain: their
    fractions sum to one. One may be slightly negative. All patches with foreground have
    the same weight. Raises an InputError as `pool_tokens` does.
    """
    means = _mean_anatomy(output, token_fractions, weight, bias)
    return means / means[:, :n_tissues].sum(dim=1, keepdim=True)


def pool_volumes(
    output: EncoderOutput, token_fractions: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """Estimate the volume (B, R) of each structure as a number of patches."""
    means = _mean_anatomy(output, token_fractions, weight, bias)
    counts = (token_fractions > 0).sum(dim=(1, 2, 3))
    return means * counts.to(means.device)[:, None]


def pool_regions(output: EncoderOutput, weights: Tensor, foreground: Tensor) -> Tensor:
    """Average the patch tokens over the brain in each region: (B, R * D).

    `weights` (B, R, S, h, w) are the fractions of the patches that a region fills, or
    (R, S, h, w) for all subjects; `foreground` (B, S, h, w) are booleans. NaN where a
    region has no brain.
    """
    grid = tuple(output.patch_tokens.shape[1:4])
    if weights.ndim not in {4, 5} or weights.shape[-3:] != grid:
        raise InputError(
            f"weights: expected a patch grid of {grid} for each region, "
            f"got shape {tuple(weights.shape)}."
        )
    weights = weights.to(output.patch_tokens.device, torch.float32)
    totals = weights.sum(dim=(-3, -2, -1)).reshape(-1, weights.shape[-4])
    empty = (totals <= 0).any(dim=0).nonzero().flatten().tolist()
    if empty:
        raise InputError(
            f"weights: expected patches in each region, got none in {empty}."
        )
    tokens = output.patch_tokens.float() * foreground[..., None]
    if weights.ndim == 4:
        weights = weights.expand(len(tokens), *weights.shape)
    totals = torch.einsum("brshw,bshw->br", weights, foreground.float())
    sums = torch.einsum("brshw,bshwd->brd", weights, tokens)
    return (sums / totals[..., None]).flatten(1)


def _mean_anatomy(
    output: EncoderOutput, token_fractions: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """Read the anatomy of the mean token over patches with foreground: (B, R)."""
    counts = (token_fractions > 0).float()
    # The map is linear: the mean token gives the mean over all patches.
    mean_token = pool_tokens(output, counts, "mean")
    device = mean_token.device
    return F.linear(mean_token, weight.to(device), bias.to(device))
