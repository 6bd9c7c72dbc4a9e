import torch

from brainfeat.simulation.smoothing import distance_to, smooth


def test_smoothing_keeps_constants():
    values = torch.full((2, 5, 6, 7), 3.0)
    torch.testing.assert_close(smooth(values, 1.7), values)


def test_smoothing_spreads_by_sigma():
    values = torch.zeros(41, 43, 45)
    values[20, 21, 22] = 1.0
    smoothed = smooth(values, 3.0)
    position = torch.arange(41.0) - 20
    profile = smoothed.sum((1, 2))
    spread = (profile * position**2).sum().sqrt()
    assert abs(spread - 3.0) < 0.1
    torch.testing.assert_close(smoothed.sum(), torch.tensor(1.0))


def test_zero_sigma_changes_nothing():
    values = torch.randn(3, 4, 5)
    assert smooth(values, 0.0) is values


def test_distance_equals_brute_force():
    mask = torch.zeros(6, 9, 7, dtype=torch.bool)
    mask[1, 2, 3] = mask[4, 8, 0] = True
    indices = torch.cartesian_prod(*(torch.arange(n) for n in mask.shape)).float()
    brute = torch.cdist(indices, mask.nonzero().float()).amin(1).reshape(mask.shape)
    torch.testing.assert_close(distance_to(mask, limit=20), brute)


def test_distance_is_limited():
    mask = torch.zeros(12, 3, 4, dtype=torch.bool)
    mask[0] = True
    assert distance_to(mask, limit=5).max() == 5
