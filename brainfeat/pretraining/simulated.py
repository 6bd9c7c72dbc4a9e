"""A source of simulated subjects, with known anatomy."""

__all__ = ["SimulatedSource"]

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from brainfeat.pretraining.source import SubjectBatch, derive_seed
from brainfeat.simulation.anatomy import BaseAnatomy
from brainfeat.simulation.training import (
    TRUTH_NAMES,
    SimulatedBatch,
    TrainingConfig,
    draw_subjects,
    encoder_lattice,
)

_PERCENTILES = (0.5, 99.5)  # the Preprocessor's
# An image alone says little about growth, which is relative to an unknown base.
# Disease changes small structures most.
_TARGET_WEIGHTS = {
    "ventricle": 2.0,
    "medial_temporal": 2.0,
    "pathology": 0.3,
    "log_jacobian": 0.1,
}
_LARGEST_MARGIN = 3  # voxels that a brain mask may leave around the brain
_HEAD_FRACTION = 0.2  # of subjects whose foreground is the head
_SAMPLE_STRIDE = 3  # every third voxel along each axis is enough for percentiles


class SimulatedSource:
    """Draw subjects from base anatomies, each used for a few steps.

    The subject at each position of the batch is replaced every `reuse` steps, the
    positions in turn, so that all steps cost the same. It is a function of seed,
    position and step, so that steps can be drawn in any order.

    Volumes are made on the device of the bases. The `n_acquisitions` of a subject
    differ in contrast and scanner. `spacing` is in mm; `preprocessing`, by default it
    and `shape`, has the values for ``Preprocessor.from_dict``, for the checkpoint.
    """

    targets = TRUTH_NAMES
    tissues = TRUTH_NAMES[:-1]  # all but growth
    target_weights = tuple(_TARGET_WEIGHTS.get(name, 1.0) for name in TRUTH_NAMES)

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
        self.bases, self.modalities = tuple(bases), tuple(modalities)
        self.reuse, self.n_acquisitions = reuse, n_acquisitions
        self.config = config or TrainingConfig()
        self.shape = shape
        self.lattice = encoder_lattice(shape, spacing)
        grid = {"shape": list(shape), "spacing": spacing}
        self.preprocessing = grid if preprocessing is None else dict(preprocessing)
        self._kept: dict[int, tuple[int, SubjectBatch]] = {}

    def draw(
        self,
        step: int,
        n_subjects: int,
        *,
        seed: int,
        process: int = 0,
        n_processes: int = 1,
    ) -> SubjectBatch:
        """Return the subjects of one process in a step, as in `SubjectSource`."""
        rows = []
        first, n_positions = process * n_subjects, n_processes * n_subjects
        for position in range(first, first + n_subjects):
            generation = (step + position * self.reuse // n_positions) // self.reuse
            subject_seed = derive_seed(seed, position, generation)
            kept_seed, subject = self._kept.get(position, (None, None))
            if subject is None or kept_seed != subject_seed:
                subject = self._draw_subject(subject_seed)
                self._kept[position] = (subject_seed, subject)
            rows.append(subject)
        targets = [row.targets for row in rows if row.targets is not None]
        return SubjectBatch(
            volumes=torch.cat([row.volumes for row in rows]),
            present=torch.cat([row.present for row in rows]),
            foreground=torch.cat([row.foreground for row in rows]),
            targets=torch.cat(targets),
        )

    def _draw_subject(self, seed: int) -> SubjectBatch:
        generator = Generator().manual_seed(seed)
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

    Volumes are (B, M, I, J, K), the foreground (B, I, J, K); voxels outside it take the
    lower clip value.
    """
    out = torch.empty_like(volumes)
    step = slice(None, None, _SAMPLE_STRIDE)
    for row, mask in enumerate(foreground):
        sample = volumes[row, :, step, step, step][:, mask[step, step, step]]  # M N
        ends = torch.tensor(_PERCENTILES, device=sample.device) / 100
        low, high = sample.quantile(ends, dim=1)  # M each
        clipped = sample.clamp(low[:, None], high[:, None])
        mean, spread = clipped.mean(dim=1), clipped.std(dim=1).clamp(min=1e-6)
        low, high, mean, spread = (
            values[:, None, None, None] for values in (low, high, mean, spread)
        )
        volume = torch.where(mask, volumes[row].clamp(low, high), low)
        out[row] = (volume - mean) / spread
    return out


def _choose_foreground(batch: SimulatedBatch, generator: Generator) -> Tensor:
    """Draw a foreground like those of preprocessing: brain and margin, or head."""
    rows = []
    for brain, head in zip(batch.brain, batch.foreground, strict=True):
        margin, is_head = torch.rand(2, generator=generator).tolist()
        radius = int(margin * (_LARGEST_MARGIN + 1))
        near = F.max_pool3d(brain[None].float(), 2 * radius + 1, 1, radius)[0] > 0
        rows.append(head if is_head < _HEAD_FRACTION else near & head)
    return torch.stack(rows)
