from dataclasses import replace

import pytest
import torch

from brainfeat.simulation.deformation import (
    Deformation,
    DeformationConfig,
    exponentiate,
    log_jacobian,
)

CONFIG = DeformationConfig()


def draw(base, config=CONFIG, seed=0, n=2):
    generator = torch.Generator().manual_seed(seed)
    return Deformation.draw(config, base.field_lattice, n, generator=generator)


def velocity(base, deformation):
    return deformation.velocity(base.field_lattice, base.device)


def test_deformations_are_invertible(base):
    deformation = draw(base, n=4)
    lattice = base.field_lattice
    displacement = exponentiate(velocity(base, deformation), lattice)
    jacobian = log_jacobian(displacement, lattice)
    assert torch.isfinite(jacobian).all()
    assert displacement.norm(dim=1).mean() > 4
    assert torch.linalg.det(deformation.linear).min() > 0.5


def test_same_seed_gives_the_same_deformation(base):
    first, second, other = draw(base), draw(base), draw(base, seed=1)
    assert torch.equal(velocity(base, first), velocity(base, second))
    assert torch.equal(first.linear, second.linear)
    assert not torch.equal(first.linear, other.linear)


@pytest.mark.parametrize(
    "change",
    [
        {"wavelengths": (60.0, 32.0, 16.0)},
        {"amplitudes": (5.0, 3.0, 1.5)},
        {"compressibility": 0.5},
        {"size_sd": 0.1},
        {"aspect_sd": 0.1},
        {"shear_sd": 0.1},
    ],
)
def test_each_setting_changes_something(base, change):
    usual, changed = draw(base), draw(base, replace(CONFIG, **change))
    same_linear = torch.equal(usual.linear, changed.linear)
    same_velocity = torch.equal(velocity(base, usual), velocity(base, changed))
    assert not (same_linear and same_velocity)


def test_less_compressible_deformations_change_volumes_less(base):
    spreads = []
    for kept in (0.0, 1.0):
        deformation = draw(base, replace(CONFIG, compressibility=kept))
        lattice = base.field_lattice
        jacobian = log_jacobian(
            exponentiate(velocity(base, deformation), lattice), lattice
        )
        spreads.append(float(jacobian.std()))
    assert spreads[0] < 0.5 * spreads[1]
