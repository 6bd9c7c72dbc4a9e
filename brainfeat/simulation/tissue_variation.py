"""Borders of tissues that differ from person to person: draw, then apply.

Deformations move every border of one anatomy alike. Here tissues gain or lose where
they share voxels, so that no two people are deformations of each other.
"""

__all__ = ["TissueVariation"]

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from brainfeat.simulation.anatomy import BRAIN_CLASSES, BaseAnatomy
from brainfeat.simulation.draws import normal
from brainfeat.simulation.lattice import Lattice, refine
from brainfeat.simulation.splines import SPLINE_SD, count_controls, evaluate_spline

_WAVELENGTH = 20.0  # mm between control points


@dataclass(frozen=True, eq=False)
class TissueVariation:
    """Drawn gains of each tissue.

    Parameters
    ----------
    controls : Tensor of shape (1, n_tissues, i, j, k)
        Spline coefficients of the log of the gain of each of `BRAIN_CLASSES`.
    """

    controls: Tensor

    @classmethod
    def draw(
        cls, sd: float, lattice: Lattice, *, generator: torch.Generator
    ) -> "TissueVariation":
        """Draw the gains of one anatomy.

        Parameters
        ----------
        sd : float
            Standard deviation of the log of the gain.
        lattice : Lattice
            What it will be applied on.
        generator : torch.Generator
            Source of randomness; the result is on its device.

        Returns
        -------
        TissueVariation
            Of one anatomy.
        """
        size = count_controls(lattice, _WAVELENGTH)
        noise = normal(generator, 1, len(BRAIN_CLASSES), *size)
        return cls(noise * (sd / SPLINE_SD))

    def apply(self, base: BaseAnatomy) -> BaseAnatomy:
        """Give the tissues of each voxel other shares of the brain in it.

        Parameters
        ----------
        base : BaseAnatomy
            Stays as it is.

        Returns
        -------
        BaseAnatomy
            The brain as a whole, and the head, are the same.
        """
        fields = base.field_lattice
        i, j, k = (spacing / _WAVELENGTH for spacing in fields.spacing)
        gain = evaluate_spline(self.controls.to(base.device), fields.shape, (i, j, k))
        gain = refine(gain[0].exp().movedim(0, -1)[None], base.lattice.shape)
        maps = base.maps.clone()
        brain = maps[: len(BRAIN_CLASSES)]
        gained = brain * gain[0].movedim(-1, 0)
        brain.copy_(gained * (brain.sum(0) / gained.sum(0).clamp(min=1e-6)))
        return dataclasses.replace(base, maps=maps)
