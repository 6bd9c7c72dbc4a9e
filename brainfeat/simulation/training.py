"""Batches of subjects with their truth, drawn on the training device."""

__all__ = [
    "TRUTH_NAMES",
    "SimulatedBatch",
    "TrainingConfig",
    "draw_subjects",
    "encoder_lattice",
]

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from brainfeat.simulation.anatomy import BRAIN_CLASSES, BaseAnatomy
from brainfeat.simulation.artifacts import ArtifactConfig, Artifacts
from brainfeat.simulation.contrast import Contrast, ContrastConfig
from brainfeat.simulation.disease import DISEASES, Condition, DiseaseKind
from brainfeat.simulation.draws import uniform
from brainfeat.simulation.lattice import Lattice, refine, sample_maps
from brainfeat.simulation.scanner import Pose, PoseConfig
from brainfeat.simulation.subjects import PopulationConfig, Subjects
from brainfeat.simulation.tissue_variation import TissueVariation

# Maps of `SimulatedBatch.truth`: shares of a voxel, then the log of how much larger
# the subject is than the base there.
TRUTH_NAMES = (*BRAIN_CLASSES, "pathology", "log_jacobian")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What training subjects are drawn from: more varied than any cohort."""

    population: PopulationConfig = field(default_factory=PopulationConfig)
    contrast: ContrastConfig = field(
        default_factory=lambda: ContrastConfig(
            jitter=0.10, random_share=0.4, detail=(0.0, 1.2)
        )
    )
    artifacts: ArtifactConfig = field(
        default_factory=lambda: ArtifactConfig(
            bias=(0.0, 0.4), noise=(0.0, 0.08), gamma=(0.7, 1.4), resolution=(1.0, 5.0)
        )
    )
    # What remains after registration.
    pose: PoseConfig = field(
        default_factory=lambda: PoseConfig(rotation=3.0, shift=2.0)
    )
    # Deviation of the log of a tissue's gain where it shares voxels with others.
    tissue_sd: float = 0.0
    stripped_share: float = 0.5
    healthy_share: float = 0.3
    ages: tuple[float, float] = (50.0, 90.0)
    # How often a batch has each of `disease.DISEASES`.
    disease_weights: tuple[float, float, float] = (0.6, 0.2, 0.2)


@dataclass(frozen=True, eq=False)
class SimulatedBatch:
    """Volumes of a batch of subjects, and the truth about them.

    Parameters
    ----------
    volumes : Tensor of shape (B, M, I, J, K)
        Intensities, not negative; white matter in T1w is about 1.
    truth : Tensor of shape (B, n_truths, I, J, K)
        Maps in the order of `TRUTH_NAMES`.
    brain : Tensor of bool, shape (B, I, J, K)
        Voxels that are mostly brain.
    foreground : Tensor of bool, shape (B, I, J, K)
        Voxels that are mostly not air: the head, or the brain where it is stripped.
    severity : Tensor of shape (B,)
        Severity of the disease, 0 in health.
    """

    volumes: Tensor
    truth: Tensor
    brain: Tensor
    foreground: Tensor
    severity: Tensor


def encoder_lattice(
    shape: tuple[int, int, int] = (80, 104, 80),
    spacing: float = 2.0,
    center: tuple[float, float, float] = (0.0, -17.0, 5.0),
) -> Lattice:
    """Build the RAS lattice of an encoder in MNI152 space.

    Parameters
    ----------
    shape : tuple of int
        Number of voxels along each axis.
    spacing : float
        Voxel edge in mm.
    center : tuple of float
        Middle of the lattice in MNI152 mm; by default the preprocessor's.

    Returns
    -------
    Lattice
        In MNI152 mm.
    """
    i, j, k = (size * spacing for size in shape)
    x, y, z = center
    return Lattice.spanning((x - i / 2, y - j / 2, z - k / 2), (i, j, k), spacing)


def draw_subjects(
    base: BaseAnatomy,
    n: int,
    *,
    generator: torch.Generator,
    modalities: Sequence[str] = ("T1w",),
    lattice: Lattice | None = None,
    config: TrainingConfig | None = None,
) -> SimulatedBatch:
    """Draw subjects with random anatomy, disease, contrast and scanner.

    Parameters
    ----------
    base : BaseAnatomy
        What they are deformed from, best at the lattice's spacing; volumes are made
        on its device.
    n : int
        Number of subjects.
    generator : torch.Generator
        Source of randomness, on any device.
    modalities : sequence of {"T1w", "T2w", "FLAIR"}
        Volumes of each subject, all of one anatomy.
    lattice : Lattice, optional
        Voxels of the volumes in MNI152 mm; by default `encoder_lattice`'s.
    config : TrainingConfig, optional
        What is drawn from.

    Returns
    -------
    SimulatedBatch
        Volumes, truth and masks.
    """
    config = config or TrainingConfig()
    lattice = lattice or encoder_lattice()
    condition, disease = _draw_condition(config, n, generator)
    if config.tissue_sd > 0:
        variation = TissueVariation.draw(
            config.tissue_sd, base.field_lattice, generator=generator
        )
        base = variation.apply(base)
    subjects = Subjects.draw(
        base, condition, disease=disease, config=config.population, generator=generator
    )
    pose = Pose.draw(config.pose, n, generator=generator)
    contrast = Contrast.draw(config.contrast, modalities, n, generator=generator)
    artifacts = Artifacts.draw(
        config.artifacts, n, len(modalities), generator=generator
    )
    stripped = uniform(generator, n) < config.stripped_share
    positions = subjects.locate(lattice, pose)
    warped = sample_maps(
        _stack(subjects, contrast, stripped.to(base.device)), positions.grid
    )
    n_truths = len(TRUTH_NAMES) - 1
    clean, truth, air = torch.split(warped, [len(modalities), n_truths, 1], dim=1)
    growth = refine(positions.growth.movedim(1, -1), lattice.shape).movedim(-1, 1)
    brain = truth.sum(1) > 0.5
    shown = torch.where(
        stripped.to(air.device)[:, None, None, None], brain, air[:, 0] < 0.5
    )
    return SimulatedBatch(
        volumes=artifacts.apply(clean, lattice.spacing),
        truth=torch.cat([truth, growth], dim=1),
        brain=brain,
        foreground=shown,
        severity=condition.severity,
    )


def _stack(subjects: Subjects, contrast: Contrast, stripped: Tensor) -> Tensor:
    """Everything that is deformed alike: images, tissue shares, air."""
    base = subjects.base
    shares = base.maps[: len(BRAIN_CLASSES)].expand(len(stripped), -1, -1, -1, -1)
    pathology = subjects.pathology
    image = contrast.to(base.device).apply(base, pathology, stripped=stripped)
    if pathology is None:
        replaced = torch.zeros_like(shares[:, :1])
    else:
        replaced = pathology.sum(1, keepdim=True)
        shares = shares * (1 - replaced)
    air = (1 - base.maps.sum(0)).expand(len(stripped), 1, -1, -1, -1)
    return torch.cat([image, shares, replaced, air], dim=1)


def _draw_condition(
    config: TrainingConfig, n: int, generator: torch.Generator
) -> tuple[Condition, DiseaseKind]:
    severity, ill, age = uniform(generator, 3, n)
    low, high = config.ages
    weights = torch.tensor(config.disease_weights, device=generator.device)
    kind = DISEASES[int(torch.multinomial(weights, 1, generator=generator))]
    severity = severity * (ill >= config.healthy_share)
    return Condition(severity, low + (high - low) * age), kind
