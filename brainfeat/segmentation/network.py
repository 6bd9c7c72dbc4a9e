"""Encoder and decoder: from a subject on both grids to probabilities of classes."""

__all__ = ["Probabilities", "SegmentationNetwork", "choose_blocks", "init_decoder"]

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from brainfeat.models.decoder import (
    DecoderConfig,
    FineFeatures,
    SegmentationDecoder,
)
from brainfeat.models.device import resolve_dtype
from brainfeat.models.encoder import SlabEncoder
from brainfeat.models.protocol import Encoder, EncoderSettings
from brainfeat.segmentation.boxes import Box, find_box, whole_box
from brainfeat.segmentation.inputs import SegmentationInput, SegmentationSpace
from brainfeat.slabs.crops import pool_patches, stack_to_slabs
from brainfeat.slabs.grid import SlabGrid

# Limits of one decoded part: voxels of the encoder's grid and, where classes are
# scored, fine voxels times classes, which fit a CPU's cache.
_MAX_VOXELS = 700_000
_MAX_SCORES = 24_000_000
# Slices on either side that features of the encoder's grid depend on. Even.
_RECEPTIVE_FIELD = 12
# Voxels around a box that is scored, that its features depend on. Those further away
# hardly change a label.
_BORDER = 2


class Probabilities(NamedTuple):
    """Probabilities of classes in a box of the fine grid; the rest is background."""

    values: NDArray[np.float16]  # (n_classes, i, j, k)
    box: Box


class _Part(NamedTuple):
    """Some slices, cut to a box and what their scores depend on around it."""

    fine: FineFeatures
    context: Tensor
    log_prior: Tensor
    within: Box  # the slices and the box, on the encoder's grid of this part


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
        self, subject: SegmentationInput, inside: NDArray[np.bool_] | None = None
    ) -> Probabilities:
        """Compute the probabilities of classes on the fine grid.

        Only voxels ``inside`` a mask of the encoder's grid are scored; in the others,
        all is background.
        """
        box = whole_box(self.space.shape) if inside is None else find_box(inside)
        box = box or tuple(slice(0, 1) for _ in self.space.shape)
        factor, axes = self.space.upsampling, self.grid.axes
        fine = tuple(slice(p.start * factor, p.stop * factor) for p in box)
        slices = [fine[axis].stop - fine[axis].start for axis in axes]
        # The classes of a voxel lie side by side, in the order of slices.
        values = np.zeros((*slices, self.decoder.config.n_classes), np.float16)
        values[..., 0] = 1
        rows = values.reshape(-1, values.shape[-1])
        for first, logits in self._decode_rows(subject, box, inside):
            rows[first] = logits.softmax(-1).half().cpu().numpy()
        order = [axes.index(axis) for axis in range(3)]
        return Probabilities(values.transpose(3, *order), fine)

    def _decode_rows(
        self, subject: SegmentationInput, box: Box, inside: NDArray[np.bool_] | None
    ) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Yield logits (n, n_classes), and their places in the flattened box."""
        factor, axes = self.space.upsampling, self.grid.axes
        tensors = (
            self._tensor(subject.stack_coarse()),
            self._tensor(subject.voxels),
            self._tensor(subject.coarse.present),
            self._tensor(subject.present),
        )
        if inside is None:
            inside = np.ones(self.space.shape, np.bool_)
        mask = _cut(torch.from_numpy(inside), box).permute(*axes)
        for axis in range(3):
            mask = mask.repeat_interleave(factor, axis)
        first = 0
        for part in self._parts(*tensors, box=box):
            n_slices = (part.within[0].stop - part.within[0].start) * factor
            wanted = mask[first : first + n_slices]
            outer = torch.zeros(part.fine.voxels.shape[2:], dtype=torch.bool)
            _cut(outer, part.within, factor)[:] = wanted
            places = wanted.flatten().nonzero()[:, 0] + first * mask[0].numel()
            rows = outer.flatten().nonzero()[:, 0].to(self.device)
            first += n_slices
            if len(rows):
                yield places.numpy(), self._refine(part, rows)

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
        for part in self._parts(coarse, fine, encoder_present, present, box=box):
            yield _cut(self._refine(part), part.within, self.space.upsampling)

    def classify(self, *tensors: Tensor, box: Box | None = None) -> NDArray[np.int64]:
        """Return the most probable class of each fine voxel, in the order of slices.

        Takes the tensors of `decode`; outside a box, all is background.
        """
        factor, axes = self.space.upsampling, self.grid.axes
        parts = [scores.argmax(1)[0].cpu() for scores in self.decode(*tensors, box=box)]
        found = np.zeros([self.space.fine_shape[axis] for axis in axes], np.int64)
        inner = tuple((box or whole_box(self.space.shape))[axis] for axis in axes)
        _cut(found, inner, factor)[...] = torch.cat(parts).numpy()
        return found

    def _refine(self, part: "_Part", rows: Tensor | None = None) -> Tensor:
        with self.precision():
            return self.decoder.refine(part.fine, part.context, part.log_prior, rows)

    def _parts(
        self,
        coarse: Tensor,
        fine: Tensor,
        encoder_present: Tensor,
        present: Tensor,
        *,
        box: Box | None,
    ) -> "Iterator[_Part]":
        """Yield what the decoder refines, some slices of a box at once."""
        slices, factor = self.to_slices(coarse), self.space.upsampling
        size = tuple(slices.shape[2:])
        inner = tuple((box or whole_box(self.space.shape))[a] for a in self.grid.axes)
        region = tuple(map(_grow_to_even, inner, size))
        tokens = self.tokens(slices, encoder_present)
        with self.precision():
            features = self.decoder.look(
                _cut(self.to_slices(fine), region, factor), present
            )
        context = self._context(slices, features, tokens, region)
        n_part = self._count_slices(inner)
        for first in range(inner[0].start, inner[0].stop, n_part):
            last = min(first + n_part, inner[0].stop)
            part = (slice(first, last), *inner[1:])
            outer = tuple(map(_grow, part, size))
            inside = _relative(outer, region)
            yield _Part(
                fine=_cut_fine(features, inside, factor),
                context=_cut(context, inside),
                log_prior=_cut(self.log_prior, outer),
                within=_relative(part, outer),
            )

    def precision(self) -> torch.autocast:
        """Multiply in bfloat16 in this context, where the device has it natively."""
        is_bfloat16 = resolve_dtype("auto", self.device) == torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=is_bfloat16)

    def _context(
        self,
        slices: Tensor,
        fine: FineFeatures,
        tokens: list[Tensor],
        region: Box,
    ) -> Tensor:
        """Compute the decoder's features of a region of the encoder's grid, in parts.

        The region, to which `fine` is cut, starts at even voxels.
        """
        factor, (along, *across) = self.space.upsampling, region
        with self.precision():
            placed = self.decoder.place_tokens(tokens, slices.shape[2:])
        n_pixels = math.prod(part.stop - part.start for part in across)
        n_part = 2 * max(1, _MAX_VOXELS // n_pixels // 2)
        parts = []
        for first in range(along.start, along.stop, n_part):
            last = min(first + n_part, along.stop)
            low = max(first - _RECEPTIVE_FIELD, along.start)
            high = min(last + _RECEPTIVE_FIELD, along.stop)
            part = (slice(low, high), *across)
            half = tuple(slice(p.start // 2, -(-p.stop // 2)) for p in part)
            with self.precision():
                features = self.decoder.context_of(
                    _cut_fine(fine, _relative(part, region), factor),
                    _cut(slices[:, -1:], part),
                    _cut(placed, half),
                    _cut(self.log_prior, part),
                )
            parts.append(features[:, :, first - low : last - low])
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


def _grow_to_even(part: slice, size: int) -> slice:
    """Add what counts around a box; the stride of two of the decoder starts there."""
    start = max(part.start - _BORDER, 0) // 2 * 2
    return slice(start, min(-(-(part.stop + _BORDER) // 2) * 2, size))


def _cut_fine(fine: FineFeatures, box: Box, factor: int) -> FineFeatures:
    voxels, features = (_cut(x, box, factor) for x in (fine.voxels, fine.features))
    return fine._replace(voxels=voxels, features=features)


def _relative(part: Box, outer: Box) -> Box:
    return tuple(
        slice(a.start - b.start, a.stop - b.start)
        for a, b in zip(part, outer, strict=True)
    )


def _cut(x: Any, box: Box, factor: int = 1) -> Any:
    """Cut the last three axes to a box, given in voxels `factor` times as long."""
    i, j, k = (slice(p.start * factor, p.stop * factor) for p in box)
    return x[..., i, j, k]
