"""Flows of velocity fields and what they do to volumes.

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

N_SQUARINGS = 6


def exponentiate(
    velocity: Tensor, lattice: Lattice, *, n_squarings: int = N_SQUARINGS
) -> Tensor:
    """Flow along a velocity field for unit time, by scaling and squaring [1]_.

    Parameters
    ----------
    velocity : Tensor of shape (B, 3, I, J, K)
        Velocity in mm per unit time.
    lattice : Lattice
        Where it is given.
    n_squarings : int
        The flow is composed of ``2 ** n_squarings`` small steps.

    Returns
    -------
    Tensor of shape (B, 3, I, J, K)
        Displacement in mm.
    """
    # In the coordinates of `sample_maps`, so that they are converted only once.
    to_unit = torch.as_tensor(lattice.normalizer[:3, :3]).to(velocity)
    places = lattice.points(lattice.normalizer, velocity.device)
    flow = torch.einsum("xy,byijk->bijkx", to_unit, velocity) * 0.5**n_squarings
    for _ in range(n_squarings):
        flow = flow + sample_maps(flow.movedim(-1, 1), places + flow).movedim(1, -1)
    displacement: Tensor = torch.einsum("xy,bijky->bxijk", to_unit.inverse(), flow)
    return displacement


def compose(inner: Tensor, outer: Tensor, lattice: Lattice) -> Tensor:
    """Displacement of ``x -> y + outer(y)`` with ``y = x + inner(x)``.

    Parameters
    ----------
    inner, outer : Tensor of shape (B, 3, I, J, K)
        Displacements in mm; ``inner`` is applied first.
    lattice : Lattice
        Where both are given.

    Returns
    -------
    Tensor of shape (B, 3, I, J, K)
        Displacement in mm.
    """
    points = lattice.points(device=inner.device) + inner.movedim(1, -1)
    return inner + sample_maps(outer, lattice.normalize(points))


def log_jacobian(displacement: Tensor, lattice: Lattice) -> Tensor:
    """Log of the determinant of ``x -> x + displacement(x)``.

    Parameters
    ----------
    displacement : Tensor of shape (B, 3, I, J, K)
        Displacement in mm.
    lattice : Lattice
        Where it is given.

    Returns
    -------
    Tensor of shape (B, 1, I, J, K)
        NaN where the map folds.
    """
    gradient = torch.stack(
        torch.gradient(displacement, spacing=lattice.spacing, dim=(2, 3, 4)), dim=2
    )  # B 3 3 I J K
    matrix = gradient.permute(0, 3, 4, 5, 1, 2) + torch.eye(3).to(gradient)
    a, b, c = matrix.unbind(-2)
    determinant: Tensor = (a * torch.linalg.cross(b, c)).sum(-1)
    return determinant.log()[:, None]


def solve_divergence(divergence: Tensor, lattice: Lattice) -> Tensor:
    """Find the curl-free velocity field that has a given divergence.

    Parameters
    ----------
    divergence : Tensor of shape (..., I, J, K)
        Relative change of volume per unit time; its mean is ignored.
    lattice : Lattice
        Where it is given; the box is taken as periodic.

    Returns
    -------
    Tensor of shape (..., 3, I, J, K)
        Velocity in mm.
    """
    waves = _wave_vectors(lattice, divergence.device)
    squared = waves.square().sum(0)
    squared[0, 0, 0] = 1.0
    spectrum = torch.fft.rfftn(divergence, dim=(-3, -2, -1))
    potential = -1j * waves * (spectrum / squared).unsqueeze(-4)
    velocity: Tensor = torch.fft.irfftn(potential, s=lattice.shape, dim=(-3, -2, -1))
    return velocity


def damp_divergence(field: Tensor, lattice: Lattice, *, keep: float) -> Tensor:
    """Keep only a share of a velocity field's divergence.

    Parameters
    ----------
    field : Tensor of shape (B, 3, I, J, K)
        Velocity in mm.
    lattice : Lattice
        Where it is given; the box is taken as periodic.
    keep : float
        Share of the divergence that stays; 0 preserves all volumes.

    Returns
    -------
    Tensor of shape (B, 3, I, J, K)
        Velocity in mm with the same curl.
    """
    waves = _wave_vectors(lattice, field.device)
    squared = waves.square().sum(0)
    squared[0, 0, 0] = 1.0
    spectrum = torch.fft.rfftn(field, dim=(-3, -2, -1))
    along = (spectrum * waves).sum(1, keepdim=True) / squared * waves
    spectrum = spectrum - (1 - keep) * along
    damped: Tensor = torch.fft.irfftn(spectrum, s=lattice.shape, dim=(-3, -2, -1))
    return damped


def _wave_vectors(lattice: Lattice, device: torch.device) -> Tensor:
    """Angular frequencies of shape (3, I, J, K // 2 + 1), in radians per mm."""
    i, j, k = lattice.shape
    di, dj, dk = lattice.spacing
    axes = (
        torch.fft.fftfreq(i, di, device=device),
        torch.fft.fftfreq(j, dj, device=device),
        torch.fft.rfftfreq(k, dk, device=device),
    )
    return 2 * math.pi * torch.stack(torch.meshgrid(*axes, indexing="ij"))
