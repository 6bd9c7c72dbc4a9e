import torch

from brainfeat.models.rotary import rotate_image, rotate_volume

DEVICE = torch.device("cpu")


def test_scores_depend_on_the_distance_of_patches_alone():
    rotation = rotate_image((5, 6), 12, base=100.0, device=DEVICE)
    q, k = torch.randn(2, 1, 12, dtype=torch.float64)
    scores = rotation.apply(q.expand(30, -1)) @ rotation.apply(k.expand(30, -1)).T
    grid = scores.reshape(5, 6, 5, 6)
    torch.testing.assert_close(grid[0, 0, 2, 3], grid[1, 2, 3, 5], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grid[3, 1, 1, 0], grid[4, 5, 2, 4], rtol=1e-5, atol=1e-5)
    assert (grid[0, 0, 2, 3] - grid[0, 0, 3, 2]).abs() > 1e-3


def test_lengths_are_kept():
    rotation = rotate_image((3, 4), 8, base=100.0, device=DEVICE)
    x = torch.randn(2, 12, 8)
    torch.testing.assert_close(rotation.apply(x).norm(dim=-1), x.norm(dim=-1))


def test_prefix_does_not_turn():
    rotation = rotate_image((3, 4), 8, base=100.0, device=DEVICE)
    x = torch.randn(2, 14, 8)
    turned = rotation.with_prefix(2).apply(x)
    assert torch.equal(turned[:, :2], x[:, :2])
    assert torch.equal(turned[:, 2:], rotation.apply(x[:, 2:]))


def test_channels_beyond_three_axes_do_not_turn():
    x = torch.randn(1, 24, 66)
    turned = rotate_volume((2, 3, 4), 66, base=1e4, device=DEVICE).apply(x)
    assert torch.equal(turned[..., 60:], x[..., 60:])
    assert torch.equal(turned[:, 0], x[:, 0])  # the first patch is at the origin
    assert (turned[:, 1:, :60] != x[:, 1:, :60]).any(-1).all()
