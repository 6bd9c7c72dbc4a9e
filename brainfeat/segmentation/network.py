"""Encoder and decoder together: a subject's images to probabilities of classes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.models.config import EncoderConfig
from brainfeat.models.decoder import DecoderConfig, SegmentationDecoder
from brainfeat.models.device import resolve_dtype
from brainfeat.models.encoder import SlabEncoder
from brainfeat.segmentation.inputs import (
    SegmentationInput,
    SegmentationSpace,
)
from brainfeat.slabs.crops import pool_patches, stack_to_slabs
from brainfeat.slabs.grid import SlabGrid

__all__ = ["SegmentationNetwork", "choose_blocks", "encoder_slabs", "first_decoder"]

# More voxels of the encoder's grid are decoded part by part.
_VOXELS_AT_ONCE = 350_000
# So are more fine voxels times classes, so that many classes do not fill the memory.
_SCORES_AT_ONCE = 100_000_000
# Slices that a score depends on, to either side.
_REACH = 12


@dataclass(eq=False)
class SegmentationNetwork:
    """All that turns a subject on the grid into probabilities.

    Parameters
    ----------
    encoder : SlabEncoder
        In evaluation mode.
    decoder : SegmentationDecoder
        In evaluation mode, but while it is trained.
    prior : Tensor of shape (K, i, j, k)
        Share of the voxels that each class has at each place.
    space : SegmentationSpace
        The grids.
    grid : SlabGrid
        The encoder's slabs.
    blocks : tuple of int
        Blocks of the encoder whose tokens are used.
    device : torch.device
        Where it runs.
    """

    encoder: SlabEncoder
    decoder: SegmentationDecoder
    prior: Tensor
    space: SegmentationSpace
    grid: SlabGrid
    blocks: tuple[int, ...]
    device: torch.device

    def __post_init__(self) -> None:
        prior = F.interpolate(
            self.prior[None].to(self.device),
            self.space.preprocessor.shape,
            mode="trilinear",
            align_corners=False,
        )
        self.log_prior = self.to_stack(prior.log())  # 1 K n_slices H W

    @classmethod
    def join(
        cls,
        config: CheckpointConfig,
        space: SegmentationSpace,
        *,
        encoder: SlabEncoder,
        decoder: SegmentationDecoder,
        prior: Tensor,
        device: torch.device,
    ) -> Self:
        """Join an encoder and a decoder as the encoder's checkpoint says.

        Parameters
        ----------
        config : CheckpointConfig
            Of the encoder.
        space, encoder, decoder, prior, device
            As for the class; the decoder is moved to the device.

        Returns
        -------
        SegmentationNetwork
            All of it.
        """
        return cls(
            encoder=encoder,
            decoder=decoder.to(device),
            prior=prior,
            space=space,
            grid=encoder_slabs(config),
            blocks=choose_blocks(config.encoder.depth),
            device=device,
        )

    def to_stack(self, volumes: Tensor) -> Tensor:
        """Turn volumes (B, C, I, J, K) into slices (B, C, n_slices, H, W)."""
        return volumes.permute(0, 1, *(2 + axis for axis in self.grid.axes))

    def tokens(self, coarse: Tensor, present: Tensor) -> list[Tensor]:
        """Encode slices of modalities and foreground, (B, M + 1, n_slices, H, W).

        Gives the patch tokens of each depth, as float32.
        """
        thickness, patch_size = self.grid.thickness, self.encoder.config.patch_size
        fractions = pool_patches(coarse[:, None, -1:], thickness, patch_size)
        dtype = resolve_dtype("auto", self.device)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16
        ):
            outputs = self.encoder.forward_intermediates(
                stack_to_slabs(coarse[:, :-1], thickness),
                self.blocks,
                present=present,
                # However little there is in a patch: maps have every voxel of it.
                foreground=fractions[:, 0, ..., 0] > 0,  # B S h w
            )
        return [output.patch_tokens.float() for output in outputs]

    @torch.inference_mode()
    def probabilities(self, subject: SegmentationInput) -> NDArray[np.float16]:
        """Compute the probability of each class in each fine voxel.

        Parameters
        ----------
        subject : SegmentationInput
            From `SegmentationSpace.read`.

        Returns
        -------
        ndarray of float16 of shape (n_classes, size_i, size_j, size_k)
            On the fine grid.
        """
        coarse = np.concatenate([subject.coarse.data, subject.coarse.foreground[None]])
        parts = self.decode(
            self._tensor(coarse),
            self._tensor(subject.voxels),
            self._tensor(subject.coarse.present),
            self._tensor(self.space.present(subject)),
        )
        shape = [self.space.fine_geometry.shape[axis] for axis in self.grid.axes]
        found = np.empty((self.decoder.config.n_classes, *shape), dtype=np.float16)
        start = 0
        for logits in parts:
            stop = start + logits.shape[2]
            found[:, start:stop] = logits.softmax(1)[0].half().cpu().numpy()
            start = stop
        order = np.argsort(self.grid.axes)
        return found.transpose(0, *(1 + order))

    def decode(
        self, coarse: Tensor, fine: Tensor, encoder_present: Tensor, present: Tensor
    ) -> Iterator[Tensor]:
        """Score a whole subject, one part of its slabs after the other.

        Parameters
        ----------
        coarse : Tensor of shape (1, n_encoder_modalities + 1, I, J, K)
            What the encoder sees; last comes the foreground.
        fine : Tensor of shape (1, M, I * u, J * u, K * u)
            Voxels of the decoder.
        encoder_present : bool Tensor of shape (1, n_encoder_modalities)
            Modalities that the subject has, of the encoder's.
        present : bool Tensor of shape (1, M)
            The same, of the decoder's.

        Yields
        ------
        Tensor of shape (1, n_classes, n_slices * u, H * u, W * u)
            Logits of neighbouring slices; first ones first.
        """
        stack = self.to_stack(coarse)  # 1 M+1 n_slices H W
        thickness, factor = self.grid.thickness, self.space.upsampling
        tokens = self.tokens(stack, encoder_present)
        voxels = self.to_stack(fine)
        n_slabs = tokens[0].shape[1]
        n_part = self._count_slabs(stack[0, 0, :thickness].numel())
        margin = -(-_REACH // thickness)
        for first in range(0, n_slabs, n_part):
            last = min(first + n_part, n_slabs)
            low, high = max(first - margin, 0), min(last + margin, n_slabs)
            start, stop = low * thickness, high * thickness
            logits = self.decoder(
                voxels[:, :, start * factor : stop * factor],
                stack[:, -1:, start:stop],
                [depth[:, low:high] for depth in tokens],
                self.log_prior[:, :, start:stop],
                present=present,
            )
            n_before = (first - low) * thickness * factor
            n_own = (last - first) * thickness * factor
            yield logits[:, :, n_before : n_before + n_own]

    def _count_slabs(self, n_voxels: int) -> int:
        """Tell how many slabs of so many coarse voxels are decoded at once."""
        n_scores = n_voxels * self.space.upsampling**3 * self.decoder.config.n_classes
        return max(1, min(_VOXELS_AT_ONCE // n_voxels, _SCORES_AT_ONCE // n_scores))

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)[None]).to(self.device)


def choose_blocks(depth: int) -> tuple[int, ...]:
    """Choose blocks of an encoder, from early to the last.

    Parameters
    ----------
    depth : int
        Number of blocks.

    Returns
    -------
    tuple of int
        At most three.

    Examples
    --------
    >>> choose_blocks(6), choose_blocks(2)
    ((1, 3, 5), (0, 1))
    """
    return tuple(sorted({max(1, round(depth * n / 3)) - 1 for n in (1, 2, 3)}))


def encoder_slabs(config: CheckpointConfig) -> SlabGrid:
    """Give the slabs that an encoder was trained on.

    Parameters
    ----------
    config : CheckpointConfig
        Of the encoder.

    Returns
    -------
    SlabGrid
        The slabs.
    """
    return SlabGrid(thickness=config.encoder.thickness, plane=config.plane)


def first_decoder(
    encoder: EncoderConfig, space: SegmentationSpace, n_classes: int, seed: int
) -> SegmentationDecoder:
    """Make a decoder with its first weights.

    Parameters
    ----------
    encoder : EncoderConfig
        Whose tokens it takes.
    space : SegmentationSpace
        The grids.
    n_classes : int
        Classes with the background.
    seed : int
        Of the weights.

    Returns
    -------
    SegmentationDecoder
        On the CPU.
    """
    config = DecoderConfig(
        n_classes=n_classes,
        n_modalities=len(space.modalities),
        embed_dim=encoder.embed_dim,
        n_depths=len(choose_blocks(encoder.depth)),
        upsampling=space.upsampling,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SegmentationDecoder(config)
