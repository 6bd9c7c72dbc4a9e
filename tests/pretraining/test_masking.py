import pytest
import torch

from brainfeat.pretraining.views import draw_block_masks, mask_weights


def draw(n_views=20, grid=(3, 5, 7), seed=0, *, ratio=(0.1, 0.5), probability=0.5):
    return draw_block_masks(
        n_views,
        grid,
        ratio=ratio,
        probability=probability,
        generator=torch.Generator().manual_seed(seed),
    )


def neighbours_hidden(masks):
    """Fraction of hidden patches whose next patch along the width is hidden."""
    return (masks[..., 1:] & masks[..., :-1]).sum() / masks[..., :-1].sum()


@pytest.mark.parametrize(("probability", "expected"), [(0, 0), (0.35, 7), (1, 20)])
def test_requested_fraction_of_views_is_masked(probability, expected):
    masks = draw(probability=probability)
    assert masks.shape == (20, 3, 5, 7)
    assert masks.dtype == torch.bool
    assert masks.flatten(1).any(dim=1).sum() == expected


@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.77])
def test_masked_views_hide_exactly_the_requested_fraction_of_patches(fraction):
    masks = draw(ratio=(fraction, fraction), probability=1.0)
    n_hidden = masks.flatten(1).sum(dim=1)
    assert (n_hidden == round(fraction * 3 * 5 * 7)).all()


def test_masked_fractions_are_spread_evenly_over_the_range():
    fractions = draw(ratio=(0.2, 0.6), probability=1.0).flatten(1).float().mean(dim=1)
    ordered = fractions.sort().values
    # One of 20 equal parts of the range each, up to whole patches.
    low = 0.2 + 0.4 * torch.arange(20) / 20
    assert (ordered >= low - 0.5 / 105).all()
    assert (ordered <= low + 0.4 / 20 + 0.5 / 105).all()
    assert not torch.equal(ordered, fractions)


@pytest.mark.parametrize(("fraction", "expected"), [(1e-6, 1), (1.0, 104)])
def test_masked_view_neither_shows_nor_hides_everything(fraction, expected):
    masks = draw(ratio=(fraction, fraction), probability=1.0)
    assert (masks.flatten(1).sum(dim=1) == expected).all()


def test_masks_are_made_of_blocks():
    blocks = draw(80, (4, 9, 11), ratio=(0.3, 0.3), probability=1.0)
    scattered = torch.rand(80, 4, 9, 11, generator=torch.Generator().manual_seed(1))
    assert neighbours_hidden(scattered < 0.3) < 0.4
    assert neighbours_hidden(blocks) > 0.6


def test_every_patch_is_hidden_at_times():
    masks = draw(300, (2, 4, 3), ratio=(0.3, 0.6), probability=1.0)
    often = masks.float().mean(dim=0)
    assert often.min() > 0.2
    assert often.max() < 0.8


def test_masks_depend_on_the_generator_alone():
    assert torch.equal(draw(seed=4), draw(seed=4))
    assert not torch.equal(draw(seed=4), draw(seed=5))


def test_weights_are_one_over_the_masked_patches_of_a_view():
    masks = draw(6, (2, 3, 5), probability=0.5)
    expected = [
        1 / (int(masks[b].sum()) * 6)
        for b in range(6)
        for s in range(2)
        for y in range(3)
        for x in range(5)
        if masks[b, s, y, x]
    ]
    torch.testing.assert_close(mask_weights(masks), torch.tensor(expected))


def test_every_masked_view_counts_the_same():
    weights = mask_weights(draw(n_views=20, probability=0.35))
    torch.testing.assert_close(weights.sum(), torch.tensor(7 / 20))
    assert mask_weights(draw(probability=0)).shape == (0,)
