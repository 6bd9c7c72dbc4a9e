"""Smooth, invertible deformations from subject to base mm: draw, then apply.

An affine change of size and proportions, then the flow of a stationary velocity field.
Velocities are of shape (B, 3, I, J, K), in mm.

References
----------
.. [1] V. Arsigny, O. Commowick, X. Pennec, N. Ayache, "A Log-Euclidean Framework
   for Statistics on Diffeomorphisms", MICCAI 2006.
"""

__all__ = [
    "Deformation",
    "DeformationConfig",
    "compose",
    "damp_divergence",
    "exponentiate",
    "log_jacobian",
    "solve_divergence",
]

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from brainfeat.simulation import random_fields
from brainfeat.simulation.lattice import Lattice, sample_maps

_N_SQUARINGS = 6


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
            size = random_fields.count_controls(lattice, wavelength)
            noise = random_fields.normal(generator, n, 3, *size)
            controls.append(noise * (amplitude / random_fields.SPLINE_SD))
        noise = random_fields.normal(generator, n, 3, 3)
        aspect = torch.diag_embed(noise.diagonal(dim1=1, dim2=2)) * config.aspect_sd
        shear = noise.triu(1) * config.shear_sd
        scale = config.size_sd * random_fields.normal(generator, n, 1, 1)
        logarithm = aspect + shear + scale * torch.eye(3).to(noise)
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
            field = field + random_fields.evaluate_spline(
                control.to(device), lattice.shape, (i, j, k)
            )
        return damp_divergence(field, lattice, keep=self.compressibility)


def exponentiate(velocity: Tensor, lattice: Lattice) -> Tensor:
    """Integrate a velocity for unit time, by scaling and squaring [1]_."""
    # In the coordinates of `sample_maps`: converted once, not at each squaring.
    to_unit = torch.as_tensor(lattice.normalizer[:3, :3]).to(velocity)
    positions = lattice.points(lattice.normalizer, velocity.device)
    flow = torch.einsum("xy,byijk->bijkx", to_unit, velocity) * 0.5**_N_SQUARINGS
    for _ in range(_N_SQUARINGS):
        flow = flow + sample_maps(flow.movedim(-1, 1), positions + flow).movedim(1, -1)
    displacement: Tensor = torch.einsum("xy,bijky->bxijk", to_unit.inverse(), flow)
    return displacement


def compose(inner: Tensor, outer: Tensor, lattice: Lattice) -> Tensor:
    """Return the displacement of ``x -> y + outer(y)`` with ``y = x + inner(x)``."""
    points = lattice.points(device=inner.device) + inner.movedim(1, -1)
    return inner + sample_maps(outer, lattice.normalize(points))


def log_jacobian(displacement: Tensor, lattice: Lattice) -> Tensor:
    """Compute the log of the Jacobian (B, 1, I, J, K); NaN where the map folds."""
    gradient = torch.stack(
        torch.gradient(displacement, spacing=lattice.spacing, dim=(2, 3, 4)), dim=2
    )  # B 3 3 I J K
    matrix = gradient.permute(0, 3, 4, 5, 1, 2) + torch.eye(3).to(gradient)
    a, b, c = matrix.unbind(-2)
    determinant: Tensor = (a * torch.linalg.cross(b, c)).sum(-1)
    return determinant.log()[:, None]


def solve_divergence(divergence: Tensor, lattice: Lattice) -> Tensor:
    """Return the curl-free velocity of a divergence; the box is periodic."""
    waves = _wave_vectors(lattice, divergence.device)
    squared = waves.square().sum(0)
    squared[0, 0, 0] = 1.0
    spectrum = torch.fft.rfftn(divergence, dim=(-3, -2, -1))
    potential = -1j * waves * (spectrum / squared).unsqueeze(-4)
    velocity: Tensor = torch.fft.irfftn(potential, s=lattice.shape, dim=(-3, -2, -1))
    return velocity


def damp_divergence(field: Tensor, lattice: Lattice, *, keep: float) -> Tensor:
    """Keep a fraction of the divergence of a velocity; the curl is unchanged."""
    waves = _wave_vectors(lattice, field.device)
    squared = waves.square().sum(0)
    squared[0, 0, 0] = 1.0
    spectrum = torch.fft.rfftn(field, dim=(-3, -2, -1))
    along = (spectrum * waves).sum(1, keepdim=True) / squared * waves
    spectrum = spectrum - (1 - keep) * along
    damped: Tensor = torch.fft.irfftn(spectrum, s=lattice.shape, dim=(-3, -2, -1))
    return damped


def _wave_vectors(lattice: Lattice, device: torch.device) -> Tensor:
    """Return angular frequencies (3, I, J, K // 2 + 1), in radians per mm."""
    i, j, k = lattice.shape
    di, dj, dk = lattice.spacing
    axes = (
        torch.fft.fftfreq(i, di, device=device),
        torch.fft.fftfreq(j, dj, device=device),
        torch.fft.rfftfreq(k, dk, device=device),
    )
    return 2 * math.pi * torch.stack(torch.meshgrid(*axes, indexing="ij"))
