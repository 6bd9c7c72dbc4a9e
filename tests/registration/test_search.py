import numpy as np
import torch
from torch.nn import functional as F

from brainfeat.registration.features import Sampled, local_features
from brainfeat.registration.fields import exponentiate, grid_points, sample, smooth
from brainfeat.registration.optimisation import _carry
from brainfeat.registration.search import _compare, _shift, search_both

SHAPE = (11, 12, 13)


def test_a_known_shift_is_found_both_ways():
    generator = torch.Generator().manual_seed(0)
    moving = torch.rand((6, *SHAPE), generator=generator)
    fixed = moving.roll((1, -2), dims=(1, 3))  # fixed(x) = moving(x + shift)
    weights = torch.ones(SHAPE)
    there, back = search_both(fixed, moving, (weights, weights), reach=2)
    inside = (slice(None), *(slice(3, -3),) * 3)
    expected = torch.tensor([-1.0, 0.0, 2.0]).view(3, 1, 1, 1)
    torch.testing.assert_close(
        there[inside], expected.expand_as(there[inside]), atol=0.05, rtol=0
    )
    torch.testing.assert_close(
        back[inside], -expected.expand_as(back[inside]), atol=0.05, rtol=0
    )


def test_costs_of_the_way_back_are_those_of_a_search_from_there():
    fixed, moving = torch.rand((2, 4, *SHAPE), generator=torch.Generator())
    offsets = torch.tensor([[2, -1, 0], [-2, 1, 0]])
    there = _compare(fixed, moving, offsets, reach=2)
    back = _compare(moving, fixed, offsets, reach=2)
    shifted = _shift(there[1], offsets[0].tolist(), 2)
    inside = (slice(2, -2),) * 3  # beyond, each repeats its own border
    torch.testing.assert_close(shifted[inside], back[0][inside])


def test_smoothing_averages_the_neighbours():
    field = torch.rand((3, *SHAPE), generator=torch.Generator().manual_seed(1))
    expected = F.avg_pool3d(F.pad(field[None], (1,) * 6, mode="replicate"), 3, 1)[0]
    torch.testing.assert_close(smooth(field, 1), expected)


def test_points_are_carried_as_the_flow_of_the_grid_carries_them():
    velocity = torch.randn((3, *SHAPE), generator=torch.Generator().manual_seed(2))
    velocity = 6.0 * smooth(velocity, 3)
    points = grid_points(SHAPE, velocity.device).flatten(1).T
    flow = exponentiate(velocity, 8)
    moved = _carry(points, velocity, torch.ones(3)) - points
    expected = sample(flow, points.T[:, :, None, None])[:, :, 0, 0].T
    assert expected.abs().mean() > 0.3
    assert (moved - expected).abs().mean() < 0.03 * expected.abs().mean()


def test_intensities_are_compared_where_both_scans_have_one_contrast():
    data = np.random.default_rng(0).gamma(2.0, size=SHAPE).astype(np.float32)
    brain = np.ones(SHAPE, bool)
    fixed = Sampled(data, brain)
    for moving, channels in ((3.0 * data + 7.0, 13), (-data, 12)):
        one, other = local_features(fixed, Sampled(moving, brain), torch.device("cpu"))
        assert len(one) == len(other) == channels
    one, other = local_features(fixed, Sampled(data * 5, brain), torch.device("cpu"))
    torch.testing.assert_close(one[12], other[12])
