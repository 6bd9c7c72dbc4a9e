"""Encoder and decoder: from a subject on both grids to probabilities of classes."""

__all__ = ["SegmentationNetwork", "choose_blocks", "init_decoder"]

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from brainfeat.models.decoder import DecoderConfig, SegmentationDecoder
from brainfeat.models.device import resolve_dtype
from brainfeat.models.encoder import SlabEncoder
from brainfeat.models.protocol import Encoder, EncoderSettings
from brainfeat.segmentation.boxes import Box
from brainfeat.segmentation.inputs import SegmentationInput, SegmentationSpace
from brainfeat.slabs.crops import pool_patches, stack_to_slabs
from brainfeat.slabs.grid import SlabGrid

# Limits of one decoded part: voxels of the encoder's grid and, where classes are
# scored, fine voxels times classes, which fit a CPU's cache.
_MAX_VOXELS = 700_000
_MAX_SCORES = 24_000_000
# Slices on either side that features of the encoder's grid depend on.
_RECEPTIVE_FIELD = 12


@dataclass(eq=False, kw_only=True)
class SegmentationNetwork:
    """An encoder, and a decoder whose scores correct a prior.

    Both are in evaluation mode, except while they are trained.
    """

    space: SegmentationSpace
    encoder: Encoder
    decoder: SegmentationDecoder
    # (K + n_places, i, j, k): frequency of each class at each position
    prior: Tensor
    device: torch.device
    log_prior: Tensor = field(init=False)  # (1, K + n_places, n_slices, H, W)
    blocks: tuple[int, ...] = field(init=False)  # of the encoder, that are decoded

    def __post_init__(self) -> None:
        self.decoder.to(self.device)
        self.blocks = choose_blocks(self.encoder.config.depth)
        prior = F.interpolate(
            self.prior[None].to(self.device),
            self.space.shape,
            mode="trilinear",
            align_corners=False,
        )
        self.log_prior = self.to_slices(prior.log())

    @property
    def grid(self) -> SlabGrid:
        """The encoder's slabs."""
        return self.space.slab_grid

    @property
    def patch_size(self) -> int:
        """Pixels along the edge of a patch in the plane of the slabs."""
        config, axes = self.encoder.config, self.grid.axes
        row = 1 if isinstance(self.encoder, SlabEncoder) else axes[1]
        return config.token_grid(self.space.shape).step[row]

    def to_slices(self, volumes: Tensor) -> Tensor:
        """Permute volumes (B, C, I, J, K) to slices (B, C, n_slices, H, W)."""
        return volumes.permute(0, 1, *(2 + axis for axis in self.grid.axes))

    def tokens(self, coarse: Tensor, present: Tensor) -> list[Tensor]:
        """Encode slices (B, M + 1, n_slices, H, W), whose last is the foreground.

        Returns the patch tokens of each of `blocks`, float32.
        """
        thickness = self.grid.thickness
        fractions = pool_patches(coarse[:, None, -1:], thickness, self.patch_size)
        foreground = fractions[:, 0, ..., 0] > 0  # B S h w
        # Any brain counts, since each voxel of a patch is labelled.
        with self.precision():
            if isinstance(self.encoder, SlabEncoder):
                slabs = stack_to_slabs(coarse[:, :-1], thickness)
                outputs = self.encoder.forward_intermediates(
                    slabs, self.blocks, present=present, foreground=foreground
                )
                return [output.patch_tokens.float() for output in outputs]
            axes = self.grid.axes
            order = [axes.index(axis) for axis in range(3)]  # of slices, back to I J K
            outputs = self.encoder.forward_intermediates(
                coarse[:, :-1].permute(0, 1, *(2 + index for index in order)),
                self.blocks,
                present=present,
                foreground=foreground.permute(0, *(1 + index for index in order)),
            )
        to_slabs = (0, *(1 + axis for axis in axes), 4)
        return [output.patch_tokens.float().permute(to_slabs) for output in outputs]

    @torch.inference_mode()
    def probabilities(
        self, subject: SegmentationInput, box: Box | None = None
    ) -> NDArray[np.float16]:
        """Compute probabilities (n_classes, I * u, J * u, K * u) on the fine grid.

        Outside a box of the encoder's grid, all is background.
        """
        factor, axes = self.space.upsampling, self.grid.axes
        box = box or tuple(slice(0, size) for size in self.space.shape)
        result = np.zeros(
            (self.decoder.config.n_classes, *self.space.fine_shape), np.float16
        )
        result[0] = 1
        # In the order of slices, as a view.
        slices = result.transpose(0, *(1 + axis for axis in axes))
        parts = self.decode(
            self._tensor(subject.stack_coarse()),
            self._tensor(subject.voxels),
            self._tensor(subject.coarse.present),
            self._tensor(subject.present),
            box=box,
        )
        rows, columns = (
            slice(box[axis].start * factor, box[axis].stop * factor)
            for axis in axes[1:]
        )
        start = box[axes[0]].start * factor
        for logits in parts:
            stop = start + logits.shape[2]
            # The classes of a voxel lie side by side.
            in_voxels = logits.movedim(1, -1).softmax(-1)[0].half()
            values = in_voxels.movedim(-1, 0).contiguous().cpu().numpy()
            slices[:, start:stop, rows, columns] = values
            start = stop
        return result

    def decode(
        self,
        coarse: Tensor,
        fine: Tensor,
        encoder_present: Tensor,
        present: Tensor,
        *,
        box: Box | None = None,
    ) -> Iterator[Tensor]:
        """Yield logits (1, n_classes, n_slices * u, H * u, W * u), slices in order.

        Takes the tensors of `LabelledVolumes`, apart from its labels; only a box of the
        encoder's grid is scored.
        """
        slices, voxels = self.to_slices(coarse), self.to_slices(fine)
        tokens = self.tokens(slices, encoder_present)
        context = self._context(slices, voxels, tokens, present)
        whole = tuple(slice(0, size) for size in context.shape[2:])
        inner = whole if box is None else tuple(box[axis] for axis in self.grid.axes)
        n_part = self._count_slices(inner)
        for first in range(inner[0].start, inner[0].stop, n_part):
            last = min(first + n_part, inner[0].stop)
            part = (slice(first, last), *inner[1:])
            outer = tuple(map(_grow, part, context.shape[2:]))
            with self.precision():
                logits = self.decoder.refine(
                    _cut(voxels, outer, self.space.upsampling),
                    _cut(context, outer),
                    _cut(self.log_prior, outer),
                    present=present,
                )
            within = tuple(
                slice(a.start - b.start, a.stop - b.start)
                for a, b in zip(part, outer, strict=True)
            )
            yield _cut(logits, within, self.space.upsampling)

    def precision(self) -> torch.autocast:
        """Multiply in bfloat16 in this context, where the device has it natively."""
        is_bfloat16 = resolve_dtype("auto", self.device) == torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=is_bfloat16)

    def _context(
        self, slices: Tensor, voxels: Tensor, tokens: list[Tensor], present: Tensor
    ) -> Tensor:
        """Compute the decoder's features on the encoder's grid, in parts of slabs."""
        thickness, factor = self.grid.thickness, self.space.upsampling
        n_slabs = tokens[0].shape[1]
        n_part = max(1, _MAX_VOXELS // slices[0, 0, :thickness].numel())
        margin = -(-_RECEPTIVE_FIELD // thickness)
        parts = []
        for first in range(0, n_slabs, n_part):
            last = min(first + n_part, n_slabs)
            low, high = max(first - margin, 0), min(last + margin, n_slabs)
            start, stop = low * thickness, high * thickness
            with self.precision():
                features = self.decoder.context_of(
                    voxels[:, :, start * factor : stop * factor],
                    slices[:, -1:, start:stop],
                    [depth[:, low:high] for depth in tokens],
                    self.log_prior[:, :, start:stop],
                    present=present,
                )
            n_before = (first - low) * thickness
            n_kept = (last - first) * thickness
            parts.append(features[:, :, n_before : n_before + n_kept])
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def _count_slices(self, inner: Box) -> int:
        """Return the slices of the encoder's grid to score at once."""
        n_pixels: int = math.prod(part.stop - part.start for part in inner[1:])
        n_scores = n_pixels * self.space.upsampling**3 * self.decoder.config.n_classes
        return max(1, _MAX_SCORES // n_scores)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)[None]).to(self.device)


def choose_blocks(depth: int) -> tuple[int, ...]:
    """Choose at most three blocks of an encoder, from early to the last.

    >>> choose_blocks(6), choose_blocks(2)
    ((1, 3, 5), (0, 1))
    """
    return tuple(sorted({max(1, round(depth * n / 3)) - 1 for n in (1, 2, 3)}))


def init_decoder(
    encoder: EncoderSettings,
    space: SegmentationSpace,
    n_classes: int,
    seed: int,
    *,
    width: int = 16,
    n_places: int = 0,
) -> SegmentationDecoder:
    """Create a decoder on the CPU, without changing the global random state."""
    config = DecoderConfig(
        n_classes=n_classes,
        n_modalities=len(space.modalities),
        embed_dim=encoder.embed_dim,
        n_depths=len(choose_blocks(encoder.depth)),
        upsampling=space.upsampling,
        width=width,
        n_places=n_places,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SegmentationDecoder(config)


def _grow(part: slice, size: int) -> slice:
    return slice(max(part.start - 1, 0), min(part.stop + 1, size))


def _cut(x: Tensor, box: Box, factor: int = 1) -> Tensor:
    """Cut the last three axes to a box, given in voxels `factor` times as long."""
    i, j, k = (slice(p.start * factor, p.stop * factor) for p in box)
    return x[..., i, j, k]
