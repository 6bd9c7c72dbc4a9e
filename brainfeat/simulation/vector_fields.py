"""Flows of velocity fields of shape (B, 3, I, J, K), in mm.

References
----------
.. [1] V. Arsigny, O. Commowick, X. Pennec, N. Ayache, "A Log-Euclidean Framework
   for Statistics on Diffeomorphisms", MICCAI 2006.
"""

__all__ = [
    "compose",
    "damp_divergence",
    "exponentiate",
    "log_jacobian",
    "solve_divergence",
]

import math

import torch
from torch import Tensor

from brainfeat.simulation.lattice import Lattice, sample_maps

_N_SQUARINGS = 6


def exponentiate(
    velocity: Tensor, lattice: Lattice, *, n_squarings: int = _N_SQUARINGS
) -> Tensor:
    """Integrate a velocity for unit time, by scaling and squaring [1]_."""
    # In the coordinates of `sample_maps`: converted once, not at each squaring.
    to_unit = torch.as_tensor(lattice.normalizer[:3, :3]).to(velocity)
    positions = lattice.points(lattice.normalizer, velocity.device)
    flow = torch.einsum("xy,byijk->bijkx", to_unit, velocity) * 0.5**n_squarings
    for _ in range(n_squarings):
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
