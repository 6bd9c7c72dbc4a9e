"""Check the shapes of an encoder's inputs."""

__all__ = ["check_inputs"]

import torch
from torch import Tensor

from brainfeat.exceptions import InputError
from brainfeat.models.config import EncoderConfig


def check_inputs(
    config: EncoderConfig,
    slabs: Tensor,
    *,
    present: Tensor | None,
    masks: Tensor | None,
    positions: Tensor | None,
    foreground: Tensor | None,
) -> tuple[int, int, int, int]:
    """Return the shape (B, S, h, w) of the patches, if all shapes fit."""
    patch, n_channels = config.patch_size, config.in_channels
    if slabs.ndim != 5 or slabs.shape[2] != n_channels:
        raise InputError(
            f"slabs: expected shape (B, S, {n_channels}, H, W), "
            f"got {tuple(slabs.shape)}."
        )
    n_rows, n_slabs, _, height, width = slabs.shape
    if height % patch or width % patch:
        raise InputError(
            f"slabs: expected height and width in multiples of the patch size {patch}, "
            f"got {(height, width)}."
        )
    grid = (n_rows, n_slabs, height // patch, width // patch)
    _check_flags("present", present, (n_rows, len(config.modalities)))
    _check_flags("masks", masks, grid)
    _check_flags("foreground", foreground, grid)
    if positions is not None and positions.shape != grid[:2]:
        shape = tuple(positions.shape)
        raise InputError(f"positions: expected shape {grid[:2]}, got {shape}.")
    return grid


def _check_flags(name: str, flags: Tensor | None, shape: tuple[int, ...]) -> None:
    if flags is not None and (flags.dtype != torch.bool or flags.shape != shape):
        raise InputError(
            f"{name}: expected booleans of shape {shape}, got {flags.dtype} of shape "
            f"{tuple(flags.shape)}."
        )
