"""What a decoder learns from in one step: crops that are changed, and encoded."""

__all__ = ["BatchSource", "DecoderBatch", "DrawnCrops"]

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from brainfeat.segmentation.crops import CropPlan, CropSizes
from brainfeat.segmentation.network import SegmentationNetwork
from brainfeat.segmentation.store import LabelledStore

# Crops have about this many slices of the encoder's grid, which fit a CPU's cache.
_N_SLICES = 8
_N_CROPS = 2
# Limit of voxels times classes of a crop, so that many classes fit the memory.
_MAX_SCORES = 30_000_000


class DecoderBatch(NamedTuple):
    """Inputs of a decoder, as `SegmentationDecoder.forward` takes them, and labels."""

    voxels: Tensor
    foreground: Tensor
    tokens: list[Tensor]
    log_prior: Tensor
    present: Tensor
    labels: Tensor  # (B, 1, n_slices * u, H * u, W * u): index of each voxel's class


class BatchSource(Protocol):
    """Draws batches."""

    def draw(self, generator: Generator) -> DecoderBatch:
        """Draw the batch of one subject."""


@dataclass(frozen=True, eq=False)
class DrawnCrops:
    """Whole slabs of subjects that are rotated and changed before they are encoded."""

    network: SegmentationNetwork
    store: LabelledStore
    rows: NDArray[np.int64]
    freeze_encoder: bool

    def draw(self, generator: Generator) -> DecoderBatch:
        """Draw the batch of one subject."""
        network, space = self.network, self.network.space
        drawn = CropPlan.draw(
            self.store, self.rows, space, sizes=self._sizes(), generator=generator
        )
        volumes = self.store.load(drawn.subject).to(network.device)
        crops = drawn.apply(volumes, space)
        with torch.set_grad_enabled(not self.freeze_encoder):
            tokens = network.tokens(crops.coarse, crops.encoder_present)
        thickness = network.grid.thickness
        parts = [slice(first, first + crops.n_slabs) for first in crops.first_slabs]
        slices = [slice(p.start * thickness, p.stop * thickness) for p in parts]
        return DecoderBatch(
            voxels=crops.voxels,
            foreground=crops.foreground,
            tokens=[torch.cat([depth[:, p] for p in parts]) for depth in tokens],
            log_prior=torch.cat([network.log_prior[:, :, part] for part in slices]),
            present=crops.present,
            labels=crops.labels,
        )

    def _sizes(self) -> CropSizes:
        n_slabs = self.store.slab_counts.shape[2]
        target = max(1, round(_N_SLICES / self.network.grid.thickness))
        n_voxels = int(np.prod(self.network.space.fine_shape)) // n_slabs
        n_scores = n_voxels * len(self.store.classes) * _N_CROPS
        limit = max(1, _MAX_SCORES // n_scores)
        return CropSizes(_N_CROPS, min(target, limit, n_slabs))
