import numpy as np
import pytest
import torch

from brainfeat.simulation.lattice import Lattice
from brainfeat.simulation.random_fields import (
    SPLINE_SD,
    count_controls,
    evaluate_spline,
    normal,
    uniform,
)


def test_equal_controls_give_a_constant():
    control = torch.full((1, 2, 4, 5, 6), 2.5)
    field = evaluate_spline(control, (3, 7, 11), (0.4, 0.3, 0.2))
    assert field.shape == (1, 2, 3, 7, 11)
    torch.testing.assert_close(field, torch.full_like(field, 2.5))


def test_linear_controls_give_a_line():
    control = torch.arange(-1.0, 6.0)[None, None, :, None, None].expand(1, 1, 7, 4, 4)
    field = evaluate_spline(control, (9, 2, 3), (0.5, 0.5, 0.5))
    torch.testing.assert_close(field[0, 0, :, 1, 2], torch.arange(9) * 0.5)


def test_standard_deviation_is_as_documented(generator):
    control = torch.randn(40, 1, 8, 9, 10, generator=generator)
    field = evaluate_spline(control, (20, 22, 24), (0.23, 0.27, 0.31))
    assert field.std() == pytest.approx(SPLINE_SD, rel=0.05)


def test_counted_controls_reach_the_last_voxel_and_two_fewer_do_not():
    # Lengths of 10, 9 and 16 mm: the last a whole number of steps.
    lattice = Lattice((6, 4, 9), np.diag([2.0, 3.0, 2.0, 1.0]))
    size = count_controls(lattice, 4.0)
    steps = tuple(spacing / 4.0 for spacing in lattice.spacing)
    whole = evaluate_spline(torch.ones(1, 1, *size), lattice.shape, steps)
    torch.testing.assert_close(whole, torch.ones(1, 1, 6, 4, 9))
    for axis in range(2):
        fewer = [n - 2 * (axis == other) for other, n in enumerate(size)]
        short = evaluate_spline(torch.ones(1, 1, *fewer), lattice.shape, steps)
        assert short.min() < 0.99


def test_uniform_fills_its_range(generator):
    values = uniform(generator, 300, 2, low=-2.0, high=5.0)
    assert values.shape == (300, 2)
    assert -2 <= values.min() < -1.5
    assert 4.5 < values.max() <= 5


def test_same_seed_gives_the_same_numbers():
    first, second = (normal(torch.Generator().manual_seed(8), 3, 4) for _ in range(2))
    assert torch.equal(first, second)
