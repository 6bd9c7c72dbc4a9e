"""Anatomies drawn from a population, and the base positions of their voxels."""

__all__ = ["Anatomies", "PopulationConfig", "Positions", "TissueVariation"]

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple, Self

import torch
from torch import Generator, Tensor

from brainfeat.simulation import random_fields
from brainfeat.simulation.anatomy import BRAIN_CLASSES, BaseAnatomy
from brainfeat.simulation.deformation import (
    Deformation,
    DeformationConfig,
    compose,
    exponentiate,
    log_jacobian,
)
from brainfeat.simulation.disease import (
    Condition,
    Disease,
    DiseaseKind,
    VariationConfig,
)
from brainfeat.simulation.lattice import Lattice, refine, sample_maps, transform_points
from brainfeat.simulation.scanner import HEAD_CENTER, Pose

_WAVELENGTH = 20.0  # mm between control points of `TissueVariation`


@dataclass(frozen=True, kw_only=True)
class PopulationConfig:
    """Variation of anatomy between subjects."""

    deformation: DeformationConfig = field(default_factory=DeformationConfig)
    variation: VariationConfig = field(default_factory=VariationConfig)


class Positions(NamedTuple):
    """Base positions of the voxels of a scan, and the growth there."""

    grid: Tensor  # B I J K 3: for `sample_maps` on the base
    growth: Tensor  # B 1 i j k: log of the growth over the base, coarse lattice


@dataclass(frozen=True, eq=False)
class Anatomies:
    """Drawn anatomies of a batch, independent of scanner and modality."""

    base: BaseAnatomy
    deformation: Deformation
    disease: Disease

    @classmethod
    def draw(
        cls,
        base: BaseAnatomy,
        condition: Condition,
        *,
        disease: DiseaseKind = "medial-temporal",
        config: PopulationConfig | None = None,
        generator: Generator,
    ) -> "Anatomies":
        """Draw one anatomy per entry of the condition, on the generator's device."""
        config = config or PopulationConfig()
        n = len(condition.severity)
        deformation = Deformation.draw(
            config.deformation, base.field_lattice, n, generator=generator
        )
        drawn = Disease.draw(
            config.variation, disease, condition, base, generator=generator
        )
        return cls(base, deformation, drawn)

    @cached_property
    def warp(self) -> Tensor:
        """Displacement to the base in mm, and its log-Jacobian: (B, 4, I, J, K)."""
        device, fields = self.base.device, self.base.field_lattice
        # Shape first, then the volumes of structures, which are defined in the base.
        shape = exponentiate(self.deformation.velocity(fields, device), fields)
        structures = exponentiate(self.disease.velocity(self.base), fields)
        displacement = compose(shape, structures, fields)
        return torch.cat([displacement, log_jacobian(displacement, fields)], dim=1)

    @cached_property
    def pathology(self) -> Tensor | None:
        """Fractions of `foci.PATHOLOGIES` in the voxels of the base, or None."""
        foci = self.disease.foci
        return None if foci is None else foci.render(self.base)

    def head_center(self, pose: Pose) -> Tensor:
        """Return the centre of each head in scanner mm, of shape (B, 3)."""
        to_base = self._linear(pose)
        center = torch.tensor([*HEAD_CENTER, 1.0]).to(to_base)
        head: Tensor = torch.linalg.solve(to_base, center.expand(len(to_base), 4))
        return head[:, :3]

    def locate(self, lattice: Lattice, pose: Pose) -> Positions:
        """Map the voxels of a scan, in scanner mm, to the base."""
        device, fields = self.base.device, self.base.field_lattice
        # The deformation is smooth: a coarse lattice is enough.
        coarse = lattice.coarsened(max(fields.spacing))
        to_shape = self._linear(pose)
        points = transform_points(coarse.points(device=device)[None], to_shape)
        moved = sample_maps(self.warp, fields.normalize(points))
        points = points + moved[:, :3].movedim(1, -1)
        grid = refine(self.base.lattice.normalize(points), lattice.shape)
        scale = torch.linalg.slogdet(to_shape).logabsdet[:, None, None, None, None]
        return Positions(grid, -(moved[:, 3:] + scale))

    def _linear(self, pose: Pose) -> Tensor:
        """Return the affine part of the map from scanner to base, (B, 4, 4)."""
        linear = torch.eye(4).repeat(len(pose.matrix), 1, 1)
        linear[:, :3, :3] = self.deformation.linear.cpu()
        return (linear @ pose.matrix.cpu()).to(self.base.device)


@dataclass(frozen=True, eq=False)
class TissueVariation:
    """Drawn gains of tissues where they share voxels, for one anatomy.

    Deformations move all borders of one anatomy alike; with gains, two subjects are no
    longer deformations of each other.
    """

    controls: Tensor  # 1 n_tissues i j k: of the log of the gain

    @classmethod
    def draw(cls, sd: float, lattice: Lattice, *, generator: Generator) -> Self:
        """Draw gains whose log has the standard deviation `sd`."""
        size = random_fields.count_controls(lattice, _WAVELENGTH)
        noise = random_fields.normal(generator, 1, len(BRAIN_CLASSES), *size)
        return cls(noise * (sd / random_fields.SPLINE_SD))

    def apply(self, base: BaseAnatomy) -> BaseAnatomy:
        """Change the tissue fractions of each voxel; brain and head stay the same."""
        fields = base.field_lattice
        i, j, k = (spacing / _WAVELENGTH for spacing in fields.spacing)
        gain = random_fields.evaluate_spline(
            self.controls.to(base.device), fields.shape, (i, j, k)
        )
        gain = refine(gain[0].exp().movedim(0, -1)[None], base.lattice.shape)
        maps = base.maps.clone()
        brain = maps[: len(BRAIN_CLASSES)]
        gained = brain * gain[0].movedim(-1, 0)
        brain.copy_(gained * (brain.sum(0) / gained.sum(0).clamp(min=1e-6)))
        return replace(base, maps=maps)
