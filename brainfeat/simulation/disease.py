"""Disease of known severity, and normal variation: draw, then apply.

A severity of zero is health. Structures also vary between healthy subjects and with
age, so that no single volume separates patients from controls.
"""

__all__ = ["DISEASES", "Condition", "Disease", "DiseaseKind", "VariationConfig"]

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from brainfeat.exceptions import ConfigError
from brainfeat.simulation.anatomy import BaseAnatomy
from brainfeat.simulation.foci import Foci
from brainfeat.simulation.random_fields import normal
from brainfeat.simulation.structures import MODES

DiseaseKind = Literal["medial-temporal", "lesions", "mass"]
DISEASES: tuple[DiseaseKind, ...] = get_args(DiseaseKind)

_MEAN_AGE = 70.0


@dataclass(frozen=True, kw_only=True)
class VariationConfig:
    """Normal variation of structure volumes, and the effects of disease."""

    ventricle_sd: float = 0.28
    ventricle_asymmetry_sd: float = 0.10
    ventricle_per_year: float = 0.012
    medial_temporal_sd: float = 0.09
    medial_temporal_asymmetry_sd: float = 0.04
    medial_temporal_per_year: float = -0.004
    gray_matter_sd: float = 0.05
    gray_matter_per_year: float = -0.002
    # Effects of a severity of one.
    ventricle_effect: float = 0.50
    medial_temporal_effect: float = -0.42
    gray_matter_effect: float = -0.04
    lesion_counts: tuple[float, float] = (2.0, 34.0)  # at severity 0 and 1
    lesion_radii: tuple[float, float] = (1.8, 6.5)  # mm, smallest and largest
    mass_radii: tuple[float, float] = (7.0, 15.0)  # mm, at severity 0 and 1


@dataclass(frozen=True, eq=False)
class Condition:
    """Severity (0 to 1) and age (years) of the subjects of a batch, of shape (B,)."""

    severity: Tensor
    age: Tensor


@dataclass(frozen=True, eq=False)
class Disease:
    """Drawn structure volumes and pathology of a batch."""

    volumes: Tensor  # B n_modes: log of the volume change of `structures.MODES`
    foci: Foci | None  # lesions or a mass, in mm of the base

    @classmethod
    def draw(
        cls,
        config: VariationConfig,
        kind: DiseaseKind,
        condition: Condition,
        base: BaseAnatomy,
        *,
        generator: Generator,
    ) -> "Disease":
        """Draw the effects of a condition, on the device of the generator."""
        if kind not in DISEASES:
            raise ConfigError(f"expected a disease among {DISEASES}, got {kind!r}.")
        atrophy = condition.severity * (kind == "medial-temporal")
        volumes = _draw_volumes(config, condition.age, atrophy, generator)
        # The same draws for every kind, so that healthy anatomies are equal in all.
        foci = None
        if kind == "lesions":
            load = condition.severity + 0.01 * (condition.age - _MEAN_AGE)
            foci = Foci.draw_lesions(
                base,
                load,
                counts=config.lesion_counts,
                radii=config.lesion_radii,
                generator=generator,
            )
        elif kind == "mass":
            foci = Foci.draw_mass(
                base, condition.severity, radii=config.mass_radii, generator=generator
            )
        return cls(volumes, foci)

    def velocity(self, base: BaseAnatomy) -> Tensor:
        """Return the velocity (B, 3, I, J, K), in mm, on the base's coarse lattice."""
        volumes = self.volumes.to(base.device)
        field = torch.einsum("bn,ncijk->bcijk", volumes, base.modes)
        if self.foci is None:
            return field
        return field + self.foci.velocity(base.field_lattice, base.device)


def _draw_volumes(
    config: VariationConfig, age: Tensor, severity: Tensor, generator: Generator
) -> Tensor:
    noise = normal(generator, len(age), 5)
    years = age - _MEAN_AGE
    ventricle = (
        config.ventricle_sd * noise[:, 0]
        + config.ventricle_per_year * years
        + config.ventricle_effect * severity
    )
    medial = (
        config.medial_temporal_sd * noise[:, 1]
        + config.medial_temporal_per_year * years
        + config.medial_temporal_effect * severity
    )
    gray = (
        config.gray_matter_sd * noise[:, 2]
        + config.gray_matter_per_year * years
        + config.gray_matter_effect * severity
    )
    skew = config.ventricle_asymmetry_sd * noise[:, 3] / 2
    medial_skew = config.medial_temporal_asymmetry_sd * noise[:, 4] / 2
    volumes = {
        "ventricle_left": ventricle - skew,
        "ventricle_right": ventricle + skew,
        "medial_temporal_left": medial - medial_skew,
        "medial_temporal_right": medial + medial_skew,
        "gray_matter": gray,
    }
    return torch.stack([volumes[name] for name in MODES], dim=1)
