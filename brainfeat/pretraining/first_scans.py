"""Tokens of the first scan of subjects of a store, outside of training."""

__all__ = ["EncodedScan", "encode_first_scans"]

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.models.encoder import EncoderOutput
from brainfeat.models.encoders import require_slabs
from brainfeat.pretraining.source import SubjectBatch
from brainfeat.pretraining.store import VolumeStore
from brainfeat.slabs.grid import SlabGrid


class EncodedScan(NamedTuple):
    """A batch of one subject, its tokens, and the foreground that they count."""

    subject: SubjectBatch
    output: EncoderOutput
    fractions: Tensor  # 1 S h w


@torch.no_grad()
def encode_first_scans(
    checkpoint: Checkpoint, store: VolumeStore, names: Sequence[str]
) -> Iterator[EncodedScan]:
    """Encode the first scan of each named subject, as the embedder would."""
    config = checkpoint.config.slab_encoder
    encoder = require_slabs(checkpoint.build_encoder())
    grid = SlabGrid(thickness=config.thickness, plane=checkpoint.config.plane)
    for name in names:
        subject = store.load([name])
        foreground = subject.foreground[0, 0].numpy()
        fractions = torch.from_numpy(
            grid.token_fractions(foreground, config.patch_size)
        )
        counted = config.count_foreground(fractions)[None]
        slabs = torch.from_numpy(grid.extract(subject.volumes[0, 0].numpy()))[None]
        output = encoder(slabs, present=subject.present[:, 0], foreground=counted > 0)
        yield EncodedScan(subject, output, counted)
