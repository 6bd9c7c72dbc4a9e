"""Tokens of scans of a store, outside of training."""

__all__ = ["EncodedScan", "encode_scans", "first_scans"]

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.models.encoder import EncoderOutput
from brainfeat.models.encoders import require_slabs
from brainfeat.pretraining.source import SubjectBatch
from brainfeat.pretraining.store import StoredScan, VolumeStore
from brainfeat.slabs.grid import SlabGrid


class EncodedScan(NamedTuple):
    """A batch of one subject, its tokens, and the foreground that they count."""

    subject: SubjectBatch
    output: EncoderOutput
    fractions: Tensor  # 1 S h w


def first_scans(store: VolumeStore, names: Sequence[str]) -> list[StoredScan]:
    """Return the first scan of each named subject."""
    return [store.subjects[name][0] for name in names]


@torch.no_grad()
def encode_scans(
    checkpoint: Checkpoint, store: VolumeStore, scans: Iterable[StoredScan]
) -> Iterator[EncodedScan]:
    """Encode scans of a store, as the embedder would."""
    config = checkpoint.config.slab_encoder
    encoder = require_slabs(checkpoint.build_encoder())
    grid = SlabGrid(thickness=config.thickness, plane=checkpoint.config.plane)
    for scan in scans:
        subject = store.load_scans([scan])
        foreground = subject.foreground[0, 0].numpy()
        fractions = torch.from_numpy(
            grid.token_fractions(foreground, config.patch_size)
        )
        counted = config.count_foreground(fractions)[None]
        slabs = torch.from_numpy(grid.extract(subject.volumes[0, 0].numpy()))[None]
        output = encoder(slabs, present=subject.present[:, 0], foreground=counted > 0)
        yield EncodedScan(subject, output, counted)
