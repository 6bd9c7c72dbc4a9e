"""Smooth, invertible deformations from subject to base mm: draw, then apply.

An affine change of size and proportions, then the flow of a stationary velocity field.
"""

__all__ = ["Deformation", "DeformationConfig"]

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from brainfeat.simulation.lattice import Lattice
from brainfeat.simulation.random_fields import (
    SPLINE_SD,
    count_controls,
    evaluate_spline,
    normal,
)
from brainfeat.simulation.vector_fields import damp_divergence


@dataclass(frozen=True, kw_only=True)
class DeformationConfig:
    """Variation of shape and size between anatomies."""

    # Spacing of the control points of each scale, in mm.
    wavelengths: tuple[float, ...] = (64.0, 32.0, 16.0)
    # Standard deviation of the velocity of each scale, in mm.
    amplitudes: tuple[float, ...] = (4.0, 3.0, 1.5)
    # Fraction of the divergence that is kept. Brains differ more in shape than in the
    # relative volumes of their parts; without this a strong deformation would hide
    # every difference in volume.
    compressibility: float = 0.3
    size_sd: float = 0.035  # of the log of the overall scale
    aspect_sd: float = 0.03  # of the log of each axis' own scale
    shear_sd: float = 0.02


@dataclass(frozen=True, eq=False)
class Deformation:
    """Drawn deformations of a batch, on the device of the generator."""

    controls: tuple[Tensor, ...]  # B 3 i j k each: spline coefficients, mm
    wavelengths: tuple[float, ...]  # mm between control points
    linear: Tensor  # B 3 3: offset from the origin, subject to base
    compressibility: float

    @classmethod
    def draw(
        cls,
        config: DeformationConfig,
        lattice: Lattice,
        n: int,
        *,
        generator: Generator,
    ) -> "Deformation":
        """Draw `n` deformations, to be evaluated on a coarse lattice."""
        controls = []
        for wavelength, amplitude in zip(
            config.wavelengths, config.amplitudes, strict=True
        ):
            size = count_controls(lattice, wavelength)
            noise = normal(generator, n, 3, *size)
            controls.append(noise * (amplitude / SPLINE_SD))
        noise = normal(generator, n, 3, 3)
        aspect = torch.diag_embed(noise.diagonal(dim1=1, dim2=2)) * config.aspect_sd
        shear = noise.triu(1) * config.shear_sd
        size_noise = normal(generator, n, 1, 1)
        logarithm = (
            aspect + shear + config.size_sd * size_noise * torch.eye(3).to(noise)
        )
        return cls(
            tuple(controls),
            config.wavelengths,
            torch.linalg.matrix_exp(logarithm),
            config.compressibility,
        )

    def velocity(self, lattice: Lattice, device: torch.device) -> Tensor:
        """Return the velocity (B, 3, I, J, K), in mm."""
        field = torch.zeros((), device=device)
        for control, wavelength in zip(self.controls, self.wavelengths, strict=True):
            i, j, k = (spacing / wavelength for spacing in lattice.spacing)
            field = field + evaluate_spline(
                control.to(device), lattice.shape, (i, j, k)
            )
        return damp_divergence(field, lattice, keep=self.compressibility)
