"""Random numbers and smooth random fields, on the device of a generator."""

__all__ = ["SPLINE_SD", "count_controls", "evaluate_spline", "normal", "uniform"]

import math

import torch
from torch import Generator, Tensor

from brainfeat.simulation.lattice import Lattice

# Standard deviation of a 3D cubic B-spline with unit normal coefficients.
SPLINE_SD = (151 / 315) ** 1.5


def normal(generator: Generator, *shape: int) -> Tensor:
    """Draw standard normal numbers of shape `shape`."""
    return torch.randn(*shape, generator=generator, device=generator.device)


def uniform(
    generator: Generator, *shape: int, low: float = 0.0, high: float = 1.0
) -> Tensor:
    """Draw uniform numbers of shape `shape` from ``[low, high)``."""
    drawn = torch.rand(*shape, generator=generator, device=generator.device)
    return low + (high - low) * drawn


def count_controls(lattice: Lattice, wavelength: float) -> list[int]:
    """Count control points per axis that cover a lattice; `wavelength` in mm apart."""
    return [
        math.floor((size - 1) * spacing / wavelength) + 4
        for size, spacing in zip(lattice.shape, lattice.spacing, strict=True)
    ]


def evaluate_spline(
    control: Tensor, shape: tuple[int, int, int], steps: tuple[float, float, float]
) -> Tensor:
    """Evaluate a cubic B-spline: (B, C, i, j, k) to (B, C, *shape).

    `steps` are the voxel edges in units of the distance between control points;
    voxel (0, 0, 0) lies on the second control point.
    """
    i, j, k = (
        _weights(size, step, n, control)
        for size, step, n in zip(shape, steps, control.shape[2:], strict=True)
    )
    # Innermost axis first, so that the largest product is one plain matrix product.
    field = control @ k.T  # B C i j K
    field = torch.einsum("bcijK,Jj->bciJK", field, j)
    field = i @ field.flatten(3)  # B C I J*K
    return field.reshape(*control.shape[:2], *shape)


def _weights(size: int, step: float, n_controls: int, like: Tensor) -> Tensor:
    """Return cubic B-spline weights of shape (size, n_controls)."""
    position = torch.arange(size, device=like.device) * step
    knots = torch.arange(n_controls, device=like.device) - 1
    gap = (position[:, None] - knots).abs()
    near = 2 / 3 - gap.square() + gap**3 / 2
    far = (2 - gap).clamp(min=0) ** 3 / 6
    return torch.where(gap < 1, near, far).to(like.dtype)
