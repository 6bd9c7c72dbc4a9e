"""A source of simulated subjects, with known anatomy."""

__all__ = ["SimulatedSource"]

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from brainfeat.pretraining.source import SubjectBatch, derive_seed, join_subjects
from brainfeat.simulation.anatomy import BaseAnatomy
from brainfeat.simulation.artifacts import ArtifactConfig
from brainfeat.simulation.contrast import ContrastConfig
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
_CLEAN_CONTRAST = ContrastConfig(jitter=0.0, detail=(1.0, 1.0))
_NO_ARTIFACTS = ArtifactConfig(bias=(0.0, 0.0), noise=(0.0, 0.0), gamma=(1.0, 1.0))
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
    structures: tuple[str, ...] = ()
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
        positions = range(process * n_subjects, (process + 1) * n_subjects)
        seeds = self._subject_seeds(step, positions, n_processes * n_subjects, seed)
        return join_subjects([self._keep(*s, self._draw_subject) for s in seeds])

    def draw_pairs(
        self,
        step: int,
        n_subjects: int,
        *,
        seed: int,
        process: int = 0,
        n_processes: int = 1,
    ) -> SubjectBatch:
        """Return two acquisitions of each subject, as in `PairedSource`.

        They differ in contrast, scanner and skull; the reference has the typical
        contrast of the first modality, and no artifacts.
        """
        positions = range(process * n_subjects, (process + 1) * n_subjects)
        seeds = self._subject_seeds(step, positions, n_processes * n_subjects, seed)
        pairs = ((position, derive_seed(drawn, 1)) for position, drawn in seeds)
        return join_subjects([self._keep(*pair, self._draw_pair) for pair in pairs])

    def _subject_seeds(
        self, step: int, positions: range, n_positions: int, seed: int
    ) -> Iterator[tuple[int, int]]:
        """Yield each position, and the seed of the subject that it has in a step."""
        for position in positions:
            generation = (step + position * self.reuse // n_positions) // self.reuse
            yield position, derive_seed(seed, position, generation)

    def _keep(
        self, position: int, seed: int, draw: Callable[[int], SubjectBatch]
    ) -> SubjectBatch:
        """Draw the subject of a position, or return the one that it has."""
        kept_seed, subject = self._kept.get(position, (None, None))
        if subject is None or kept_seed != seed:
            subject = draw(seed)
            self._kept[position] = (seed, subject)
        return subject

    def _draw_subject(self, seed: int) -> SubjectBatch:
        generator = Generator().manual_seed(seed)
        base = self._choose_base(generator)
        return self._scan(base, generator, generator, self.config, self.n_acquisitions)

    def _draw_pair(self, seed: int) -> SubjectBatch:
        generator = Generator().manual_seed(seed)
        base, state = self._choose_base(generator), generator.get_state()
        clean = replace(self.config, contrast=_CLEAN_CONTRAST, artifacts=_NO_ARTIFACTS)
        scans = []
        for number, config in enumerate((self.config, self.config, clean)):
            looks = Generator().manual_seed(derive_seed(seed, number))
            # The same state gives the same anatomy.
            anatomy = Generator()
            anatomy.set_state(state)
            scans.append(self._scan(base, anatomy, looks, config, 1))
        first, second, reference = scans
        shown = torch.zeros_like(reference.present)
        shown[..., 0] = True
        return SubjectBatch(
            volumes=torch.cat([first.volumes, second.volumes], dim=1),
            present=torch.cat([first.present, second.present], dim=1),
            foreground=torch.cat([first.foreground, second.foreground], dim=1),
            targets=first.targets,
            reference=replace(reference, present=shown, targets=None),
        )

    def _choose_base(self, generator: Generator) -> BaseAnatomy:
        return self.bases[int(torch.randint(len(self.bases), (), generator=generator))]

    def _scan(
        self,
        base: BaseAnatomy,
        generator: Generator,
        appearance: Generator,
        config: TrainingConfig,
        n_acquisitions: int,
    ) -> SubjectBatch:
        batch = draw_subjects(
            base,
            1,
            generator=generator,
            modalities=self.modalities * n_acquisitions,
            lattice=self.lattice,
            config=config,
            appearance=appearance,
        )
        foreground = _choose_foreground(batch, appearance)
        volumes = _normalise(batch.volumes, foreground)
        volumes = volumes.unflatten(1, (n_acquisitions, -1))  # B A M I J K
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
