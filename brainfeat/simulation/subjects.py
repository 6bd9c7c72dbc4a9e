"""Anatomies of subjects, and where the voxels of their scans come from."""

__all__ = ["PopulationConfig", "Positions", "Subjects"]

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from brainfeat.simulation.anatomy import BaseAnatomy
from brainfeat.simulation.deformation import Deformation, DeformationConfig
from brainfeat.simulation.disease import (
    Condition,
    Disease,
    DiseaseKind,
    VariationConfig,
)
from brainfeat.simulation.lattice import (
    Lattice,
    refine,
    sample_maps,
    transform_points,
)
from brainfeat.simulation.scanner import HEAD_CENTER, Pose
from brainfeat.simulation.vector_fields import compose, exponentiate, log_jacobian


@dataclass(frozen=True, kw_only=True)
class PopulationConfig:
    """Anatomy of the people that subjects are drawn from."""

    deformation: DeformationConfig = field(default_factory=DeformationConfig)
    variation: VariationConfig = field(default_factory=VariationConfig)


class Positions(NamedTuple):
    """Where the voxels of a scan come from.

    ``grid`` (B, I, J, K, 3) is for `sample_maps` on the base; ``growth``
    (B, 1, i, j, k) is the log of how much larger the subject is than the base, on
    the coarsened lattice.
    """

    grid: Tensor
    growth: Tensor


@dataclass(frozen=True, eq=False)
class Subjects:
    """Drawn anatomies of a batch: independent of scanner and modality.

    Parameters
    ----------
    base : BaseAnatomy
        What they are deformed from.
    deformation : Deformation
        Shape and size.
    disease : Disease
        Volumes of structures, and pathology.
    """

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
        generator: torch.Generator,
    ) -> "Subjects":
        """Draw subjects.

        Parameters
        ----------
        base : BaseAnatomy
            What they are deformed from.
        condition : Condition
            Severity and age of each, on the generator's device.
        disease : {"medial-temporal", "lesions", "mass"}
            What the severity is a severity of.
        config : PopulationConfig, optional
            How people differ.
        generator : torch.Generator
            Source of randomness.

        Returns
        -------
        Subjects
            As many as the condition has entries.
        """
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
        """Way to the base on its coarse lattice, of shape (B, 4, I, J, K).

        Three components of a displacement in mm, which the affine part precedes, and
        the log of its change of volume.
        """
        device, fields = self.base.device, self.base.field_lattice
        # Shape first, then the volumes of structures, which are known in the base.
        shape = exponentiate(self.deformation.velocity(fields, device), fields)
        structures = exponentiate(self.disease.velocity(self.base), fields)
        displacement = compose(shape, structures, fields)
        return torch.cat([displacement, log_jacobian(displacement, fields)], dim=1)

    @cached_property
    def pathology(self) -> Tensor | None:
        """Shares of `foci.PATHOLOGIES` in the base's voxels, or None."""
        foci = self.disease.foci
        return None if foci is None else foci.render(self.base)

    def head_center(self, pose: Pose) -> Tensor:
        """Find the middle of each head.

        Parameters
        ----------
        pose : Pose
            How the heads lie in the scanner.

        Returns
        -------
        Tensor of shape (B, 3)
            Scanner mm.
        """
        to_base = self._linear(pose)
        center = torch.tensor([*HEAD_CENTER, 1.0]).to(to_base)
        found: Tensor = torch.linalg.solve(to_base, center.expand(len(to_base), 4))
        return found[:, :3]

    def locate(self, lattice: Lattice, pose: Pose) -> Positions:
        """Find the base's positions of a scan's voxels.

        Parameters
        ----------
        lattice : Lattice
            Voxels of the scan, in the scanner's mm.
        pose : Pose
            How the heads lie in the scanner.

        Returns
        -------
        Positions
            For `sample_maps` on maps of the base.
        """
        device, fields = self.base.device, self.base.field_lattice
        # The deformation is smooth: a coarse lattice is enough, then interpolate.
        coarse = lattice.coarsened(max(fields.spacing))
        to_shape = self._linear(pose)
        points = transform_points(coarse.points(device=device)[None], to_shape)
        moved = sample_maps(self.warp, fields.normalize(points))
        points = points + moved[:, :3].movedim(1, -1)
        grid = refine(self.base.lattice.normalize(points), lattice.shape)
        scale = torch.linalg.slogdet(to_shape).logabsdet[:, None, None, None, None]
        return Positions(grid, -(moved[:, 3:] + scale))

    def _linear(self, pose: Pose) -> Tensor:
        """Affine part of the way from the scanner to the base, (B, 4, 4)."""
        linear = torch.eye(4).repeat(len(pose.matrix), 1, 1)
        linear[:, :3, :3] = self.deformation.linear.cpu()
        return (linear @ pose.matrix.cpu()).to(self.base.device)
