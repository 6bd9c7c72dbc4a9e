"""Batches of subjects with known anatomy, drawn on the training device."""

__all__ = [
    "TRUTH_NAMES",
    "SimulatedBatch",
    "TrainingConfig",
    "draw_subjects",
    "encoder_lattice",
]

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from brainfeat.configs import Fraction, NonNegativeFloat, Relation, check_fields
from brainfeat.simulation.anatomy import BRAIN_CLASSES, BaseAnatomy
from brainfeat.simulation.artifacts import ArtifactConfig, Artifacts
from brainfeat.simulation.contrast import Contrast, ContrastConfig
from brainfeat.simulation.disease import DISEASES, Condition, DiseaseKind
from brainfeat.simulation.lattice import Lattice, refine, sample_maps
from brainfeat.simulation.population import Anatomies, PopulationConfig, TissueVariation
from brainfeat.simulation.random_fields import uniform
from brainfeat.simulation.scanner import Pose, PoseConfig

# Maps of `SimulatedBatch.truth`: fractions of a voxel, then the log of the growth of
# the subject relative to the base.
TRUTH_NAMES = (*BRAIN_CLASSES, "pathology", "log_jacobian")

_CONTRAST = ContrastConfig(jitter=0.10, random_fraction=0.4, detail=(0.0, 1.2))
_ARTIFACTS = ArtifactConfig(
    bias=(0.0, 0.4), noise=(0.0, 0.08), gamma=(0.7, 1.4), resolution=(1.0, 5.0)
)
_CENTER = (0.0, -17.0, 5.0)  # MNI152 mm, of the preprocessor's box
_POSE = PoseConfig(rotation=3.0, shift=2.0)  # what remains after registration


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Distribution of training subjects, wider than that of any cohort."""

    population: PopulationConfig = field(default_factory=PopulationConfig)
    contrast: ContrastConfig = _CONTRAST
    artifacts: ArtifactConfig = _ARTIFACTS
    pose: PoseConfig = _POSE
    # Standard deviation of the log of a tissue's gain where it shares voxels.
    tissue_sd: NonNegativeFloat = 0.0
    stripped_fraction: Fraction = 0.5
    healthy_fraction: Fraction = 0.3
    ages: tuple[float, float] = (50.0, 90.0)
    # Relative frequency of each of `disease.DISEASES` among batches.
    disease_weights: tuple[float, float, float] = (0.6, 0.2, 0.2)

    def __post_init__(self) -> None:
        check_fields(self, _relations)


@dataclass(frozen=True, eq=False)
class SimulatedBatch:
    """Volumes of a batch of subjects with their true maps."""

    volumes: Tensor  # B M I J K: not negative, white matter in T1w is about 1
    truth: Tensor  # B n_truths I J K: maps of `TRUTH_NAMES`
    brain: Tensor  # B I J K, bool: mostly brain
    foreground: Tensor  # B I J K, bool: mostly not air; the brain where stripped


def encoder_lattice(
    shape: tuple[int, int, int] = (80, 104, 80), spacing: float = 2.0
) -> Lattice:
    """Return an encoder's RAS lattice in MNI152 mm, by default the preprocessor's."""
    i, j, k = (size * spacing for size in shape)
    x, y, z = _CENTER
    return Lattice.spanning((x - i / 2, y - j / 2, z - k / 2), (i, j, k), spacing)


def _relations(config: TrainingConfig) -> Iterator[Relation]:
    low, high = config.ages
    yield low <= high, "ages", "the lower limit first"
    weights = config.disease_weights
    is_valid = min(weights) >= 0 and sum(weights) > 0
    yield is_valid, "disease_weights", "no negative weight, and a positive sum"


def draw_subjects(
    base: BaseAnatomy,
    n: int,
    *,
    generator: Generator,
    modalities: Sequence[str] = ("T1w",),
    lattice: Lattice | None = None,
    config: TrainingConfig | None = None,
    appearance: Generator | None = None,
) -> SimulatedBatch:
    """Draw `n` subjects on the device of `base`, with one volume per modality.

    Contrast, artifacts and skull are drawn from `appearance`, by default from the
    generator too: generators in one state give one anatomy.
    """
    config = config or TrainingConfig()
    lattice = lattice or encoder_lattice()
    condition, disease = _draw_condition(config, n, generator)
    if config.tissue_sd > 0:
        variation = TissueVariation.draw(
            config.tissue_sd, base.field_lattice, generator=generator
        )
        base = variation.apply(base)
    subjects = Anatomies.draw(
        base, condition, disease=disease, config=config.population, generator=generator
    )
    pose = Pose.draw(config.pose, n, generator=generator)
    looks = appearance or generator
    contrast = Contrast.draw(config.contrast, modalities, n, generator=looks)
    artifacts = Artifacts.draw(config.artifacts, n, len(modalities), generator=looks)
    stripped = (uniform(looks, n) < config.stripped_fraction).to(base.device)
    positions = subjects.locate(lattice, pose)
    warped = sample_maps(_stack(subjects, contrast, stripped), positions.grid)
    n_truths = len(TRUTH_NAMES) - 1
    clean, truth, air = torch.split(warped, [len(modalities), n_truths, 1], dim=1)
    growth = refine(positions.growth.movedim(1, -1), lattice.shape).movedim(-1, 1)
    brain = truth.sum(1) > 0.5
    shown = torch.where(stripped[:, None, None, None], brain, air[:, 0] < 0.5)
    return SimulatedBatch(
        volumes=artifacts.apply(clean, lattice.spacing),
        truth=torch.cat([truth, growth], dim=1),
        brain=brain,
        foreground=shown,
    )


def _stack(subjects: Anatomies, contrast: Contrast, stripped: Tensor) -> Tensor:
    """Stack all maps to deform: images, tissue fractions, pathology, air."""
    base = subjects.base
    fractions = base.maps[: len(BRAIN_CLASSES)].expand(len(stripped), -1, -1, -1, -1)
    pathology = subjects.pathology
    image = contrast.to(base.device).apply(base, pathology, stripped=stripped)
    if pathology is None:
        replaced = torch.zeros_like(fractions[:, :1])
    else:
        replaced = pathology.sum(1, keepdim=True)
        fractions = fractions * (1 - replaced)
    air = (1 - base.maps.sum(0)).expand(len(stripped), 1, -1, -1, -1)
    return torch.cat([image, fractions, replaced, air], dim=1)


def _draw_condition(
    config: TrainingConfig, n: int, generator: Generator
) -> tuple[Condition, DiseaseKind]:
    severity, ill, age = uniform(generator, 3, n)
    low, high = config.ages
    weights = torch.tensor(config.disease_weights, device=generator.device)
    kind = DISEASES[int(torch.multinomial(weights, 1, generator=generator))]
    severity = severity * (ill >= config.healthy_fraction)
    return Condition(severity, low + (high - low) * age), kind
