"""Check the shapes of an encoder's inputs."""

__all__ = ["check_blocks", "check_inputs", "check_patches", "check_volumes"]

from collections.abc import Sequence

import torch
from torch import Tensor

from brainfeat.exceptions import InputError
from brainfeat.models.config import EncoderConfig
from brainfeat.models.resnet_config import ResNetConfig
from brainfeat.models.volume_config import VolumeConfig


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


def check_volumes(
    config: VolumeConfig | ResNetConfig,
    volumes: Tensor,
    *,
    present: Tensor | None,
    foreground: Tensor | None,
) -> None:
    """Check that the shapes of volumes and of flags fit."""
    n_modalities = len(config.modalities)
    if volumes.ndim != 5 or volumes.shape[1] != n_modalities:
        raise InputError(
            f"volumes: expected shape (B, {n_modalities}, I, J, K), "
            f"got {tuple(volumes.shape)}."
        )
    sizes = (volumes.shape[2], volumes.shape[3], volumes.shape[4])
    pairs = zip(sizes, config.multiple_of, strict=True)
    if not all(size and size % step == 0 for size, step in pairs):
        raise InputError(
            f"volumes: expected sizes in multiples of {config.multiple_of}, "
            f"got {sizes}."
        )
    _check_flags("present", present, (len(volumes), n_modalities))
    grid = config.token_grid(sizes).shape
    _check_flags("foreground", foreground, (len(volumes), *grid))


def check_patches(config: VolumeConfig, patches: Tensor, places: Tensor) -> None:
    """Check that the shapes of patches fit, and that they have one embedding."""
    if config.n_streams > 1:
        raise InputError("patches: expected an encoder with one patch embedding.")
    if patches.ndim != 2 or patches.shape[1] != config.in_dim:
        shape = tuple(patches.shape)
        raise InputError(f"patches: expected shape (N, {config.in_dim}), got {shape}.")
    if places.shape != (len(patches), 3):
        shape = tuple(places.shape)
        raise InputError(f"places: expected shape ({len(patches)}, 3), got {shape}.")


def check_blocks(blocks: Sequence[int], depth: int) -> list[int]:
    """Return indices of blocks, counted from 0, if all exist."""
    if not all(-depth <= index < depth for index in blocks):
        given = tuple(blocks)
        raise InputError(f"blocks: expected indices below {depth}, got {given}.")
    return [index % depth for index in blocks]


def _check_flags(name: str, flags: Tensor | None, shape: tuple[int, ...]) -> None:
    if flags is not None and (flags.dtype != torch.bool or flags.shape != shape):
        raise InputError(
            f"{name}: expected booleans of shape {shape}, got {flags.dtype} of shape "
            f"{tuple(flags.shape)}."
        )
