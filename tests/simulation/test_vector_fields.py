import numpy as np
import torch

from brainfeat.simulation.deformation import (
    compose,
    damp_divergence,
    exponentiate,
    log_jacobian,
    solve_divergence,
)
from brainfeat.simulation.lattice import Lattice
from brainfeat.simulation.smoothing import smooth

LATTICE = Lattice((20, 24, 22), np.diag([3.0, 3.0, 3.0, 1.0]))
INNER = (slice(5, -5),) * 3


def random_velocity(amplitude):
    noise = torch.randn(
        1, 3, *LATTICE.shape, generator=torch.Generator().manual_seed(1)
    )
    field = smooth(noise, 3.0)
    return field / field.std() * amplitude


def divergence(field):
    parts = [
        torch.gradient(field[:, axis], spacing=3.0, dim=axis + 1)[0]
        for axis in range(3)
    ]
    return sum(parts)


def test_flow_and_reversed_flow_cancel():
    velocity = random_velocity(4.0)
    forward = exponentiate(velocity, LATTICE)
    backward = exponentiate(-velocity, LATTICE)
    residue = compose(forward, backward, LATTICE)
    assert residue[0, :, *INNER].abs().max() < 0.3
    assert forward.abs().max() > 5


def test_flow_of_a_uniform_velocity_is_a_shift():
    velocity = torch.tensor([1.0, -2.0, 3.0])[None, :, None, None, None]
    velocity = velocity.expand(1, 3, *LATTICE.shape)
    torch.testing.assert_close(exponentiate(velocity, LATTICE), velocity)


def test_log_jacobian_of_a_scaling():
    points = LATTICE.points().movedim(-1, 0)[None]
    scale = torch.tensor([0.2, -0.1, 0.5])[None, :, None, None, None]
    result = log_jacobian(points * scale, LATTICE)
    expected = torch.log1p(scale).sum()
    torch.testing.assert_close(result, torch.full_like(result, expected.item()))


def test_solution_has_the_requested_divergence():
    target = smooth(
        torch.randn(LATTICE.shape, generator=torch.Generator().manual_seed(2)), 3.0
    )
    velocity = solve_divergence(target, LATTICE)
    measured = divergence(velocity[None])[0]
    # Central differences only approximate the spectral derivative.
    correlation = np.corrcoef(
        measured[INNER].flatten(), (target - target.mean())[INNER].flatten()
    )
    assert correlation[0, 1] > 0.99


def test_damping_scales_the_divergence_only():
    velocity = random_velocity(2.0)
    damped = damp_divergence(velocity, LATTICE, keep=0.25)
    torch.testing.assert_close(
        divergence(damped)[0][INNER],
        0.25 * divergence(velocity)[0][INNER],
        atol=2e-2,
        rtol=0.1,
    )
    whole = damp_divergence(velocity, LATTICE, keep=1.0)
    torch.testing.assert_close(whole, velocity, atol=1e-4, rtol=1e-4)
