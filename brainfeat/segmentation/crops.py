"""Crops of labelled subjects for the decoder's training: drawn first, then applied."""

__all__ = ["CropPlan", "CropSizes", "TrainingCrops"]

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from brainfeat.segmentation.inputs import SegmentationSpace
from brainfeat.segmentation.store import BACKGROUND, LabelledStore, LabelledVolumes
from brainfeat.slabs.crops import CropBoxes, CropConfig
from brainfeat.slabs.intensity import IntensityChanges, IntensityConfig

# No more than alignment errors, so that the prior still fits. No flips, since a class
# may be of one side.
_BOXES = CropConfig(
    area=(0.95, 1.0), aspect=1.03, rotation=2.0, tilt=1.0, flip=0.0, jitter=0.25
)
# Weak: trainings are short, and borders must not be blurred.
_INTENSITIES = IntensityConfig(
    gamma=0.1, contrast=0.05, bias=0.05, noise=0.0, blur=0.0, coarse=0.0
)
# Probability that a crop is of any slabs: else those without any class, as of eyes and
# scalp, would never be learnt as background.
_ANYWHERE = 0.25
# Probability that a subject with several modalities loses one, if any may be missing.
_HIDE_MODALITY = 0.2


class CropSizes(NamedTuple):
    """Crops of one subject in a step, and slabs of a crop."""

    n_crops: int
    n_slabs: int


@dataclass(frozen=True, eq=False)
class TrainingCrops:
    """What one subject contributes to one step; B crops."""

    coarse: Tensor  # (1, encoder's M + 1, n_slices, H, W), all slabs; foreground last
    encoder_present: Tensor  # bool (1, encoder's M)
    first_slabs: tuple[int, ...]  # of each crop
    n_slabs: int  # of a crop
    foreground: Tensor  # (B, 1, n_slices, H, W)
    voxels: Tensor  # (B, M, n_slices * u, H * u, W * u)
    present: Tensor  # bool (B, M)
    labels: Tensor  # (B, 1, n_slices * u, H * u, W * u): index of each voxel's class


@dataclass(frozen=True, eq=False)
class CropPlan:
    """One draw: a subject, slabs of it, and how geometry and intensities change."""

    subject: int  # index in the store
    first_slabs: tuple[int, ...]  # of each crop
    n_slabs: int  # of a crop
    boxes: CropBoxes  # rotation and scaling, on the encoder's grid
    changes: IntensityChanges  # one row a modality of the encoder
    hidden: int | None  # index of the decoder's modality that is removed

    @classmethod
    def draw(
        cls,
        store: LabelledStore,
        rows: NDArray[np.int64],
        space: SegmentationSpace,
        *,
        sizes: CropSizes,
        generator: Generator,
    ) -> Self:
        """Draw one of these subjects, and crops that show its classes equally often."""
        subject = int(rows[_randint(len(rows), generator)])
        counts = store.slab_counts[subject]
        grid, shape = space.slab_grid, space.shape
        n_slabs, _, height, width = grid.extract(np.zeros((1, *shape), np.bool_)).shape
        first_slabs = tuple(
            _draw_first_slab(counts, sizes.n_slabs, generator)
            for _ in range(sizes.n_crops)
        )
        boxes = CropBoxes.draw(
            replace(_BOXES, size=(height, width), n_slabs=n_slabs),
            shape,
            torch.tensor([0.5]),
            n_views=1,
            thickness=grid.thickness,
            plane=grid.plane,
            generator=generator,
        )
        n_modalities = store.encoder_present.shape[1]
        changes = IntensityChanges.draw(_INTENSITIES, 1, n_modalities, generator)
        hidden = None
        if space.allow_missing:
            hidden = _draw_hidden(store.present[subject], generator)
        return cls(subject, first_slabs, sizes.n_slabs, boxes, changes, hidden)

    def apply(
        self, volumes: LabelledVolumes, space: SegmentationSpace
    ) -> TrainingCrops:
        """Cut and change the subject that was drawn, on the device of its volumes."""
        indices, thickness = space.modality_indices, space.slab_grid.thickness
        encoder_present = volumes.encoder_present.clone()
        present = volumes.present.clone()
        if self.hidden is not None:
            present[:, self.hidden] = encoder_present[:, indices[self.hidden]] = False
        slices = self.boxes.apply(volumes.coarse)[:, 0]  # 1 M+1 n_slices H W
        changed = self.changes.apply(slices[:, :-1])
        n_slices = self.n_slabs * thickness
        decoder_changes = self.changes.select(indices)
        foreground, voxels, labels = [], [], []
        for first_slab in self.first_slabs:
            first = first_slab * thickness
            boxes = self.boxes.select(first, n_slices).refine(space.upsampling)
            foreground.append(slices[:, -1:, first : first + n_slices])
            voxels.append(decoder_changes.apply(boxes.apply(volumes.fine)[:, 0]))
            labels.append(boxes.apply(volumes.labels, "nearest")[:, 0])
        return TrainingCrops(
            coarse=torch.cat([changed, slices[:, -1:]], 1),
            encoder_present=encoder_present,
            first_slabs=self.first_slabs,
            n_slabs=self.n_slabs,
            foreground=torch.cat(foreground),
            voxels=torch.cat(voxels),
            present=present.expand(len(voxels), -1),
            labels=torch.cat(labels),
        )


def _draw_first_slab(
    counts: NDArray[np.int64], n_slabs: int, generator: Generator
) -> int:
    """Draw any slab, or one of a drawn class and where in the crop it lies."""
    if float(torch.rand((), generator=generator)) < _ANYWHERE:
        return _randint(int(counts.shape[1]) - n_slabs + 1, generator)
    classes = np.flatnonzero(counts[1:].sum(axis=1)) + 1
    if not len(classes):  # as in a subject without a lesion
        classes = np.array([BACKGROUND])
    label = classes[_randint(len(classes), generator)]
    weights = torch.from_numpy(counts[label]).double()
    slab = int(torch.multinomial(weights, 1, generator=generator).item())
    first = slab - _randint(n_slabs, generator)
    return max(0, min(first, int(counts.shape[1]) - n_slabs))


def _draw_hidden(present: NDArray[np.bool_], generator: Generator) -> int | None:
    indices = np.flatnonzero(present)
    if len(indices) < 2:
        return None
    if float(torch.rand((), generator=generator)) > _HIDE_MODALITY:
        return None
    return int(indices[_randint(len(indices), generator)])


def _randint(limit: int, generator: Generator) -> int:
    return int(torch.randint(limit, (), generator=generator).item())
