"""Stacks of slabs for the decoder's training: drawn first, then applied."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brainfeat.segmentation.store import (
    BACKGROUND,
    LabelledStore,
    LabelledVolumes,
)
from brainfeat.slabs.crops import CropBoxes, CropConfig
from brainfeat.slabs.grid import SlabGrid
from brainfeat.slabs.intensity import IntensityChanges, IntensityConfig

__all__ = ["StackPlan", "StackSizes", "Stacks"]

# What alignment to the template leaves, and no more: the prior stays where it is. Left
# and right stay too, as a class may be one side's.
_CROPS = CropConfig(
    area=(0.95, 1.0), aspect=1.03, rotation=2.0, tilt=1.0, flip=0.0, jitter=0.25
)
# Faint: trainings are short, and borders must not be blurred.
_INTENSITIES = IntensityConfig(
    gamma=0.1, contrast=0.05, bias=0.05, noise=0.0, blur=0.0, coarse=0.0
)
# Of a subject with several modalities, if it may lack some.
_HIDE_MODALITY = 0.2


@dataclass(frozen=True, eq=False)
class Stacks:
    """What one subject gives to one step.

    Parameters
    ----------
    coarse : Tensor of shape (1, n_encoder_modalities + 1, n_slices, H, W)
        The whole subject, for the encoder; last comes the foreground.
    encoder_present : bool Tensor of shape (1, n_encoder_modalities)
        Modalities that the encoder sees.
    first_slabs : tuple of int
        First slab of each stack that the decoder sees.
    n_slabs : int
        Slabs of a stack.
    foreground : Tensor of shape (B, 1, n_slices, H, W)
        Brain in each stack.
    voxels : Tensor of shape (B, M, n_slices * u, H * u, W * u)
        Fine voxels of each stack.
    present : bool Tensor of shape (B, M)
        Modalities that the decoder sees.
    labels : Tensor of shape (B, 1, n_slices * u, H * u, W * u)
        Index of each voxel's class.
    """

    coarse: Tensor
    encoder_present: Tensor
    first_slabs: tuple[int, ...]
    n_slabs: int
    foreground: Tensor
    voxels: Tensor
    present: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class StackPlan:
    """One draw: whom to show, from where, and what a scanner did to it.

    Parameters
    ----------
    subject : int
        Place in the store.
    first_slabs : tuple of int
        First slab of each stack.
    n_slabs : int
        Slabs of a stack.
    boxes : CropBoxes
        The subject turned and stretched, on the encoder's grid.
    changes : IntensityChanges
        What becomes of its intensities, one row a modality of the encoder.
    hidden : int
        Place of a modality that is taken away, of the decoder's; -1 for none.
    """

    subject: int
    first_slabs: tuple[int, ...]
    n_slabs: int
    boxes: CropBoxes
    changes: IntensityChanges
    hidden: int

    @classmethod
    def draw(
        cls,
        store: LabelledStore,
        subjects: NDArray[np.int64],
        shape: tuple[int, int, int],
        grid: SlabGrid,
        *,
        sizes: "StackSizes",
        hide: bool,
        generator: torch.Generator,
    ) -> "StackPlan":
        """Draw a subject and stacks in which all classes have their turn.

        Parameters
        ----------
        store : LabelledStore
            Labelled subjects.
        subjects : ndarray of int
            Those to draw from.
        shape : tuple of int (I, J, K)
            The encoder's grid.
        grid : SlabGrid
            The encoder's slabs.
        sizes : StackSizes
            Stacks of a subject, and slabs of a stack.
        hide : bool
            Whether to take a modality away now and then.
        generator : torch.Generator
            Source of randomness, on the CPU.

        Returns
        -------
        StackPlan
            The draw.
        """
        subject = int(subjects[_below(len(subjects), generator)])
        counts = store.slab_counts[subject]
        size = grid.extract(np.zeros((1, *shape), np.bool_)).shape
        first_slabs = tuple(
            _draw_first_slab(counts, sizes.n_slabs, generator)
            for _ in range(sizes.n_stacks)
        )
        boxes = CropBoxes.draw(
            replace(_CROPS, size=(size[2], size[3]), n_slabs=size[0]),
            shape,
            torch.tensor([0.5]),
            n_views=1,
            thickness=grid.thickness,
            plane=grid.plane,
            generator=generator,
        )
        n_modalities = store.encoder_present.shape[1]
        changes = IntensityChanges.draw(_INTENSITIES, 1, n_modalities, generator)
        hidden = _draw_hidden(store.present[subject], generator) if hide else -1
        return cls(subject, first_slabs, sizes.n_slabs, boxes, changes, hidden)

    def apply(
        self,
        volumes: LabelledVolumes,
        places: Sequence[int],
        thickness: int,
        upsampling: int,
    ) -> Stacks:
        """Cut and change what was drawn.

        Parameters
        ----------
        volumes : LabelledVolumes
            The subject that was drawn.
        places : sequence of int
            Place of each modality of the decoder among the encoder's.
        thickness : int
            Slices of a slab.
        upsampling : int
            Fine voxels along an edge of a voxel of the encoder's grid.

        Returns
        -------
        Stacks
            On the device of the volumes.
        """
        encoder_present = volumes.encoder_present.clone()
        present = volumes.present.clone()
        if self.hidden >= 0:
            present[:, self.hidden] = encoder_present[:, places[self.hidden]] = False
        whole = self.boxes.apply(volumes.coarse)[:, 0]  # 1 M+1 n_slices H W
        changed = self.changes.apply(whole[:, :-1])
        n_slices = self.n_slabs * thickness
        own_changes = self.changes.select(places)
        foreground, voxels, labels = [], [], []
        for first_slab in self.first_slabs:
            first = first_slab * thickness
            boxes = self.boxes.select(first, n_slices).refine(upsampling)
            foreground.append(whole[:, -1:, first : first + n_slices])
            voxels.append(own_changes.apply(boxes.apply(volumes.fine)[:, 0]))
            labels.append(boxes.apply(volumes.labels, "nearest")[:, 0])
        return Stacks(
            coarse=torch.cat([changed, whole[:, -1:]], 1),
            encoder_present=encoder_present,
            first_slabs=self.first_slabs,
            n_slabs=self.n_slabs,
            foreground=torch.cat(foreground),
            voxels=torch.cat(voxels),
            present=present.expand(len(voxels), -1),
            labels=torch.cat(labels),
        )


class StackSizes(NamedTuple):
    """Stacks that one subject gives to a step, and slabs of a stack."""

    n_stacks: int
    n_slabs: int


def _below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=generator).item())


def _draw_first_slab(
    counts: NDArray[np.int64], n_slabs: int, generator: torch.Generator
) -> int:
    """Draw a class, a slab that has it, and where in the stack this slab lies."""
    there = np.flatnonzero(counts[1:].sum(axis=1)) + 1
    if not len(there):  # as in a subject without a lesion
        there = np.array([BACKGROUND])
    weights = torch.from_numpy(counts[there[_below(len(there), generator)]]).double()
    slab = int(torch.multinomial(weights, 1, generator=generator).item())
    first = slab - _below(n_slabs, generator)
    return max(0, min(first, int(counts.shape[1]) - n_slabs))


def _draw_hidden(present: NDArray[np.bool_], generator: torch.Generator) -> int:
    there = np.flatnonzero(present)
    if len(there) < 2 or float(torch.rand((), generator=generator)) > _HIDE_MODALITY:
        return -1
    return int(there[_below(len(there), generator)])
