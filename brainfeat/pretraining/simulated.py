"""Subjects simulated on the fly, with known anatomy."""

__all__ = ["SimulatedSource"]

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from brainfeat.pretraining.seeds import derive_seed
from brainfeat.pretraining.subjects import SubjectBatch
from brainfeat.simulation.anatomy import BaseAnatomy
from brainfeat.simulation.training import (
    TRUTH_NAMES,
    SimulatedBatch,
    TrainingConfig,
    draw_subjects,
    encoder_lattice,
)

_CENTER = (0.0, -17.0, 5.0)  # of the Preprocessor's grid, MNI152 mm
_PERCENTILES = (0.5, 99.5)  # the Preprocessor's
# Growth is relative to a base that the encoder never sees, so little of it can be
# told from an image; small structures carry most of what disease changes.
_EMPHASIS = {
    "ventricle": 2.0,
    "medial_temporal": 2.0,
    "pathology": 0.3,
    "log_jacobian": 0.1,
}
_LARGEST_MARGIN = 3  # voxels of the mask that registration leaves around a brain
_HEAD_SHARE = 0.2
_SAMPLE_STRIDE = 3  # every third voxel along each axis is enough for percentiles


class SimulatedSource:
    """Draw subjects from base anatomies, each used for a few steps.

    A step's batch has one place for each subject. The subject in a place is
    replaced every `reuse` steps, the places in turn, so that the cost of a step is
    even and every batch is mixed. What is in a place at a step follows from the
    seed and the numbers of both, so that any step can be drawn at any time.

    Parameters
    ----------
    bases : sequence of BaseAnatomy
        Anatomies that subjects are deformed from; volumes are made on their device.
    modalities : sequence of {"T1w", "T2w", "FLAIR"}
        Volumes of each subject.
    reuse : int
        Steps that a subject is used for, with new crops and intensities each time.
    n_acquisitions : int
        Acquisitions A of each subject, which differ in contrast and scanner.
    config : TrainingConfig, optional
        What subjects are drawn from.
    shape : tuple of int (I, J, K)
        Voxels of a volume.
    spacing : float
        Voxel edge in mm.
    preprocessing : mapping, optional
        What ``Preprocessor.from_dict`` reads, for the checkpoint; by default the
        grid of `shape` and `spacing`, with every other setting at its default.
    """

    quantities = TRUTH_NAMES
    tissues = TRUTH_NAMES[:-1]  # growth is none
    emphasis = tuple(_EMPHASIS.get(name, 1.0) for name in TRUTH_NAMES)

    def __init__(
        self,
        bases: Sequence[BaseAnatomy],
        *,
        modalities: Sequence[str] = ("T1w", "T2w", "FLAIR"),
        reuse: int = 4,
        n_acquisitions: int = 1,
        config: TrainingConfig | None = None,
        shape: tuple[int, int, int] = (80, 104, 80),
        spacing: float = 2.0,
        preprocessing: Mapping[str, Any] | None = None,
    ) -> None:
        self.bases = tuple(bases)
        self.modalities = tuple(modalities)
        self.reuse = reuse
        self.n_acquisitions = n_acquisitions
        self.config = config or TrainingConfig()
        self.shape = shape
        self.lattice = encoder_lattice(shape, spacing, _CENTER)
        grid = {"shape": list(shape), "spacing": spacing}
        self.preprocessing = grid if preprocessing is None else dict(preprocessing)
        self._places: dict[int, tuple[int, SubjectBatch]] = {}

    def draw(
        self,
        step: int,
        n_subjects: int,
        *,
        seed: int,
        process: int = 0,
        n_processes: int = 1,
    ) -> SubjectBatch:
        """Return the subjects that one process has in a step.

        Parameters
        ----------
        step : int
            Number of the step, from 0.
        n_subjects : int
            Number of subjects B of each process.
        seed : int
            Seed of the run.
        process, n_processes : int
            Which process it is, from 0, and how many train together.

        Returns
        -------
        SubjectBatch
            A function of the arguments alone.
        """
        rows = []
        first, n_places = process * n_subjects, n_processes * n_subjects
        for place in range(first, first + n_subjects):
            generation = (step + place * self.reuse // n_places) // self.reuse
            subject_seed = derive_seed(seed, place, generation)
            kept_seed, subject = self._places.get(place, (None, None))
            if subject is None or kept_seed != subject_seed:
                subject = self._draw_subject(subject_seed)
                self._places[place] = (subject_seed, subject)
            rows.append(subject)
        truths = [row.truth for row in rows if row.truth is not None]
        return SubjectBatch(
            volumes=torch.cat([row.volumes for row in rows]),
            present=torch.cat([row.present for row in rows]),
            foreground=torch.cat([row.foreground for row in rows]),
            truth=torch.cat(truths),
        )

    def _draw_subject(self, seed: int) -> SubjectBatch:
        generator = torch.Generator().manual_seed(seed)
        base = self.bases[int(torch.randint(len(self.bases), (), generator=generator))]
        batch = draw_subjects(
            base,
            1,
            generator=generator,
            modalities=self.modalities * self.n_acquisitions,
            lattice=self.lattice,
            config=self.config,
        )
        foreground = _choose_foreground(batch, generator)
        volumes = _normalise(batch.volumes, foreground)
        volumes = volumes.unflatten(1, (self.n_acquisitions, -1))  # B A M I J K
        present = torch.ones(volumes.shape[:3], dtype=torch.bool)
        return SubjectBatch(volumes, present, foreground.float(), batch.truth)


def _normalise(volumes: Tensor, foreground: Tensor) -> Tensor:
    """Clip at percentiles and z-score over the foreground, as `Preprocessor` does.

    Volumes have shape (B, M, I, J, K), the foreground (B, I, J, K). Voxels outside
    it take the lower clip value.
    """
    out = torch.empty_like(volumes)
    for row, mask in enumerate(foreground):
        coarse = (slice(None), *[slice(None, None, _SAMPLE_STRIDE)] * 3)
        sample = volumes[row][coarse][:, mask[coarse[1:]]]  # M N
        ends = torch.tensor(_PERCENTILES, device=sample.device) / 100
        low, high = sample.quantile(ends, dim=1)  # M each
        clipped = sample.clamp(low[:, None], high[:, None])
        spread = clipped.std(dim=1).clamp(min=1e-6)
        wide = (slice(None), None, None, None)
        volume = volumes[row].clamp(low[wide], high[wide])
        volume = torch.where(mask, volume, low[wide])
        out[row] = (volume - clipped.mean(dim=1)[wide]) / spread[wide]
    return out


def _choose_foreground(batch: SimulatedBatch, generator: torch.Generator) -> Tensor:
    """Find the foreground as preprocessing might: around the brain, or the head."""
    rows = []
    for brain, head in zip(batch.brain, batch.foreground, strict=True):
        margin, is_head = torch.rand(2, generator=generator).tolist()
        radius = int(margin * (_LARGEST_MARGIN + 1))
        near = F.max_pool3d(brain[None].float(), 2 * radius + 1, 1, radius)[0] > 0
        rows.append(head if is_head < _HEAD_SHARE else near & head)
    return torch.stack(rows)
