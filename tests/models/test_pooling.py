import pytest
import torch

from brainfeat.exceptions import ConfigError, InputError
from brainfeat.models.encoder import EncoderOutput
from brainfeat.models.pooling import (
    pool_regions,
    pool_tissues,
    pool_tokens,
    pool_volumes,
)


@pytest.fixture
def output():
    generator = torch.Generator().manual_seed(0)
    return EncoderOutput(
        torch.randn(2, 5, 7, generator=generator),
        torch.randn(2, 5, 4, 3, 7, generator=generator),
    )


@pytest.fixture
def fractions():
    fractions = torch.rand(2, 5, 4, 3, generator=torch.Generator().manual_seed(1))
    fractions[:, 0] = 0.0
    fractions[:, :, 3] = 0.0
    return fractions


def test_mean_equals_its_loop_over_patches(output, fractions):
    pooled = pool_tokens(output, fractions, "mean")
    total, weight = torch.zeros(7), 0.0
    for s in range(5):
        for i in range(4):
            for j in range(3):
                total += fractions[1, s, i, j] * output.patch_tokens[1, s, i, j]
                weight += fractions[1, s, i, j]
    torch.testing.assert_close(pooled[1], total / weight)


def test_class_tokens_are_weighted_by_the_foreground_of_their_slabs(output, fractions):
    weights = fractions.sum((2, 3))
    expected = (output.cls_token * weights[..., None]).sum(1) / weights.sum(1)[:, None]
    torch.testing.assert_close(pool_tokens(output, fractions, "cls"), expected)


@pytest.mark.parametrize("mode", ["mean", "cls", "cls+mean"])
def test_background_tokens_are_ignored(mode, output, fractions):
    cls_token, patch_tokens = (x.clone() for x in output)
    cls_token[:, 0] = 1e6
    patch_tokens[fractions == 0.0] = -1e6
    changed = EncoderOutput(cls_token, patch_tokens)
    torch.testing.assert_close(
        pool_tokens(changed, fractions, mode), pool_tokens(output, fractions, mode)
    )


def test_cls_and_mean_are_concatenated(output, fractions):
    both = pool_tokens(output, fractions, "cls+mean")
    assert both.shape == (2, 14)
    assert torch.equal(both[:, :7], pool_tokens(output, fractions, "cls"))
    assert torch.equal(both[:, 7:], pool_tokens(output, fractions, "mean"))


@pytest.mark.parametrize("mode", ["mean", "cls", "cls+mean"])
def test_row_depends_on_its_own_subject_only(mode, output, fractions):
    alone = pool_tokens(EncoderOutput(*(x[1:] for x in output)), fractions[1:], mode)
    torch.testing.assert_close(pool_tokens(output, fractions, mode)[1:], alone)


def test_half_precision_tokens_give_float32(output, fractions):
    half = EncoderOutput(*(x.to(torch.bfloat16) for x in output))
    assert pool_tokens(half, fractions).dtype == torch.float32


def test_tissues_equal_the_sum_over_patches(output, fractions):
    generator = torch.Generator().manual_seed(2)
    weight = torch.rand(3, 7, generator=generator)
    bias = torch.tensor([4.0, 5.0, 6.0])
    expected = torch.zeros(2, 3)
    for subject in range(2):
        for index in (fractions[subject] > 0).nonzero().tolist():
            token = output.patch_tokens[subject][tuple(index)]
            expected[subject] += weight @ token + bias
    pooled = pool_tissues(output, fractions, weight, bias)
    torch.testing.assert_close(pooled, expected / expected.sum(1, keepdim=True))
    torch.testing.assert_close(pooled.sum(1), torch.ones(2))
    # The third may overlap with the others.
    of_two = pool_tissues(output, fractions, weight, bias, 2)
    torch.testing.assert_close(of_two[:, :2].sum(1), torch.ones(2))
    torch.testing.assert_close(of_two[:, 2] / of_two[:, 0], pooled[:, 2] / pooled[:, 0])
    torch.testing.assert_close(
        pool_volumes(output, fractions, weight, bias), expected, rtol=1e-5, atol=1e-4
    )


def test_regions_equal_the_mean_over_each(output):
    weights = torch.rand(3, 5, 4, 3, generator=torch.Generator().manual_seed(2))
    everywhere = torch.ones(2, 5, 4, 3, dtype=torch.bool)
    pooled = pool_regions(output, weights, everywhere)
    assert pooled.shape == (2, 21)
    for region in range(3):
        expected = pool_tokens(output, weights[region].expand(2, -1, -1, -1))
        torch.testing.assert_close(
            pooled[:, region * 7 : region * 7 + 7], expected, rtol=1e-4, atol=1e-6
        )


def test_wrong_weights_are_rejected(output, fractions):
    with pytest.raises(ConfigError, match="got 'max'"):
        pool_tokens(output, fractions, "max")
    with pytest.raises(InputError, match=r"expected shape \(2, 5, 4, 3\)"):
        pool_tokens(output, fractions[:, :, :, :2])
    fractions[1] = 0.0
    with pytest.raises(InputError, match=r"got none in rows \[1\]"):
        pool_tokens(output, fractions)
    with pytest.raises(InputError, match=r"patch grid of \(5, 4, 3\)"):
        pool_regions(output, torch.ones(5, 4, 3), fractions > 0)
    with pytest.raises(InputError, match=r"patches in each region, got none in \[0\]"):
        pool_regions(output, torch.zeros(1, 5, 4, 3), fractions > 0)


def test_regions_exclude_the_background(output, fractions):
    weights = torch.rand(3, 5, 4, 3, generator=torch.Generator().manual_seed(2))
    weights[1, 1:] = 0.0  # the first slab only, without brain
    patch_tokens = output.patch_tokens.clone()
    patch_tokens[fractions == 0] = 1e6
    changed = EncoderOutput(output.cls_token, patch_tokens)
    vectors = pool_regions(changed, weights, fractions > 0).unflatten(1, (3, 7))
    assert vectors[:, 1].isnan().all()
    held = weights[2] * (fractions[1] > 0)
    expected = (held[..., None] * output.patch_tokens[1]).sum((0, 1, 2)) / held.sum()
    torch.testing.assert_close(vectors[1, 2], expected, rtol=1e-4, atol=1e-4)
