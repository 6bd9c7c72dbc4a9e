import torch

from brainfeat.simulation.draws import normal, uniform


def test_uniform_stays_in_its_range(generator):
    drawn = uniform(generator, 300, 2, low=-2.0, high=5.0)
    assert drawn.shape == (300, 2)
    assert -2 <= drawn.min() < -1.5
    assert 4.5 < drawn.max() <= 5


def test_same_seed_same_draws():
    first, second = (normal(torch.Generator().manual_seed(8), 3, 4) for _ in range(2))
    assert torch.equal(first, second)
