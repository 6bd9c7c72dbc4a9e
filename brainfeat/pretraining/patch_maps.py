"""Volumes and maps of subjects in the crops of their views."""

__all__ = ["PatchMaps", "crop_acquisitions", "crop_maps"]

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from brainfeat.models.config import EncoderConfig
from brainfeat.pretraining.source import SubjectBatch
from brainfeat.slabs.crops import CropBoxes, pool_labels, pool_patches


class PatchMaps(NamedTuple):
    """Foreground and anatomy of each patch of V views of B subjects."""

    fractions: Tensor  # V B S h w: foreground
    targets: Tensor | None  # V B S h w R


def crop_acquisitions(
    boxes: CropBoxes,
    volumes: Tensor,
    interpolation: Literal["bilinear", "nearest"] = "bilinear",
) -> Tensor:
    """Cut view v out of acquisition v modulo A: (B, V, C, n_slices, H, W).

    `volumes` have the shape (B, A, C, I, J, K).
    """
    n_acquisitions, n_views = volumes.shape[1], boxes.matrices.shape[1]
    parts = [
        CropBoxes(boxes.matrices[:, first::n_acquisitions], boxes.size).apply(
            volumes[:, first], interpolation
        )
        for first in range(min(n_acquisitions, n_views))
    ]
    if len(parts) == 1:
        return parts[0]
    out = parts[0].new_empty(len(volumes), n_views, *parts[0].shape[2:])
    for first, part in enumerate(parts):
        out[:, first::n_acquisitions] = part
    return out


def crop_maps(
    boxes: CropBoxes, subjects: SubjectBatch, encoder: EncoderConfig
) -> PatchMaps:
    """Average foreground and anatomy targets over patches."""
    thickness, patch_size = encoder.thickness, encoder.patch_size
    # Every second voxel along each axis is enough for patch means.
    factor = 2 if thickness % 2 == patch_size % 2 == 0 else 1
    coarse = boxes.coarsen(factor)
    window = (thickness // factor, patch_size // factor)
    foreground = crop_acquisitions(coarse, subjects.foreground[:, :, None].float())
    fractions = pool_patches(foreground, *window)[..., 0].transpose(0, 1)
    targets = None
    if subjects.targets is not None:
        maps = coarse.apply(subjects.targets.float())
        targets = pool_patches(maps, *window).transpose(0, 1)
        if subjects.members is not None:
            targets = torch.einsum("vbshwl,blr->vbshwr", targets, subjects.members)
    elif subjects.labels is not None and subjects.members is not None:
        targets = _pool_structures(boxes, subjects.labels, subjects.members, encoder)
    return PatchMaps(encoder.count_foreground(fractions), targets)


def _pool_structures(
    boxes: CropBoxes, labels: Tensor, members: Tensor, encoder: EncoderConfig
) -> Tensor:
    """Return the fraction of each structure in each patch: (V, B, S, h, w, R)."""
    stacks = crop_acquisitions(boxes, labels[:, :, None].float(), "nearest")
    fractions = pool_labels(
        stacks[:, :, 0], members.shape[1], encoder.thickness, encoder.patch_size
    )
    return torch.einsum("bvshwl,blr->vbshwr", fractions, members)
