from dataclasses import fields, replace

import pytest
import torch
from torch.nn import functional as F

from brainfeat.exceptions import ConfigError
from brainfeat.slabs.intensity import IntensityChanges, IntensityConfig

NOTHING = dict.fromkeys(("gamma", "contrast", "bias", "noise", "blur", "coarse"), 0.0)


@pytest.fixture
def stacks():
    """Crops of shape (N, M, n_slices, H, W)."""
    return torch.randn(3, 2, 4, 6, 8, generator=torch.Generator().manual_seed(5))


def draw(n_crops=3, n_modalities=2, seed=0, **strengths):
    return IntensityChanges.draw(
        IntensityConfig(**strengths),
        n_crops,
        n_modalities,
        torch.Generator().manual_seed(seed),
    )


def draw_only(n_crops=3, n_modalities=2, seed=0, **strengths):
    return draw(n_crops, n_modalities, seed, **(NOTHING | strengths))


def test_no_change_gives_the_input(stacks):
    torch.testing.assert_close(draw_only().apply(stacks), stacks)


def test_same_draw_gives_the_same_crops_and_keeps_the_input(stacks):
    before = stacks.clone()
    first, again, other = (draw(seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.apply(stacks), first.apply(stacks))
    assert torch.equal(first.apply(stacks), again.apply(stacks))
    assert not torch.equal(first.apply(stacks), other.apply(stacks))
    assert torch.equal(stacks, before)


def test_strength_bounds_the_draws():
    changes = draw(200, 3)
    assert 0.28 < changes.gamma.log().abs().max() <= 0.3
    assert 0.18 < changes.gain.log().abs().max() <= 0.2
    assert 0.18 < changes.shift.abs().max() <= 0.2
    assert 0.09 < changes.noise.max() <= 0.1
    assert 0.7 < changes.blur.max() <= 0.8
    assert abs(changes.bias.std() - 0.2) < 0.01
    assert abs((changes.coarse >= 0).float().mean() - 0.2) < 0.1
    assert set(changes.coarse.tolist()) == {-1, 0, 1, 2}


@pytest.mark.parametrize("name", ["gamma", "gain", "shift", "bias", "noise", "blur"])
def test_crops_and_modalities_change_independently(name):
    values = getattr(draw(), name)
    assert values.shape[:2] == (3, 2)
    assert len(set(values.reshape(6, -1)[:, 0].tolist())) == 6


def test_gamma_keeps_extremes_and_order(stacks):
    changed = draw_only(gamma=0.9).apply(stacks)
    for before, after in zip(stacks.flatten(0, 1), changed.flatten(0, 1), strict=True):
        torch.testing.assert_close(after.aminmax(), before.aminmax())
        assert torch.equal(before.flatten().argsort(), after.flatten().argsort())
        assert not torch.allclose(before, after)


def test_contrast_is_a_linear_map_around_the_lowest_value(stacks):
    changes = draw_only(contrast=0.5)
    low = stacks.amin(dim=(2, 3, 4), keepdim=True)
    gain, shift = (
        value[:, :, None, None, None] for value in (changes.gain, changes.shift)
    )
    torch.testing.assert_close(
        changes.apply(stacks), gain * (stacks - low) + low + shift
    )


def test_bias_is_a_smooth_factor_that_keeps_the_background(stacks):
    stacks = stacks.clamp(min=0.0)
    changes = draw_only(bias=0.3)
    changed = changes.apply(stacks)
    assert torch.equal(changed[stacks == 0], torch.zeros(int((stacks == 0).sum())))
    bright = torch.ones(3, 2, 4, 6, 8)
    bright[..., 1, 2, 3] = 0.0  # the background, so that there is a scale
    field = changes.apply(bright).log()
    corners = field[..., [0, 0, -1], [0, -1, 0], [-1, 0, -1]]
    expected = changes.bias[..., [0, 0, -1], [0, -1, 0], [-1, 0, -1]]
    torch.testing.assert_close(corners, expected)


def test_bias_is_trilinear_between_its_control_points(stacks):
    changes = draw_only(bias=0.4)
    field = F.interpolate(
        changes.bias, size=stacks.shape[2:], mode="trilinear", align_corners=True
    )
    low = stacks.amin(dim=(2, 3, 4), keepdim=True)
    expected = low + (stacks - low) * field.exp()
    torch.testing.assert_close(changes.apply(stacks), expected)


def test_noise_has_the_drawn_spread():
    still = torch.zeros(3, 2, 20, 30, 40)
    changes = draw_only(noise=0.5)
    noise = changes.apply(still)
    torch.testing.assert_close(
        noise.std(dim=(2, 3, 4)), changes.noise, rtol=0.03, atol=0
    )
    assert noise.mean(dim=(2, 3, 4)).abs().max() < 0.02


def test_blur_is_a_normalised_gaussian_in_the_plane(stacks):
    changes = draw_only(blur=1.0)
    blurred = changes.apply(stacks)
    offsets = torch.arange(-2.0, 3.0)
    for crop in range(3):
        for modality in range(2):
            kernel = (-(offsets**2) / (2 * changes.blur[crop, modality] ** 2)).exp()
            kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2
            planes = F.pad(stacks[crop, modality], (2, 2, 2, 2), mode="replicate")
            expected = torch.zeros(4, 6, 8)
            for row in range(5):
                for column in range(5):
                    window = planes[:, row : row + 6, column : column + 8]
                    expected += kernel[row, column] * window
            torch.testing.assert_close(
                blurred[crop, modality], expected, rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("seed", range(4))
def test_coarse_crops_are_means_of_pairs_along_their_axis(stacks, seed):
    changes = draw_only(coarse=1.0, seed=seed)
    merged = changes.apply(stacks)
    assert set(changes.coarse.tolist()) <= {0, 1, 2}
    for crop, axis in enumerate(changes.coarse.tolist()):
        pairs = stacks[crop].unflatten(axis + 1, (-1, 2))
        means = pairs.mean(dim=axis + 2, keepdim=True).expand_as(pairs)
        torch.testing.assert_close(
            merged[crop], means.flatten(axis + 1, axis + 2), rtol=1e-4, atol=1e-5
        )


def test_last_plane_of_an_odd_number_is_kept():
    stacks = torch.randn(30, 2, 5, 7, 9)
    changes = draw_only(n_crops=30, coarse=1.0)
    merged = changes.apply(stacks)
    for crop, axis in enumerate(changes.coarse.tolist()):
        before, after = (x[crop].movedim(axis + 1, 0) for x in (stacks, merged))
        means = (before[:-1:2] + before[1::2]) / 2
        torch.testing.assert_close(after[:-1], means.repeat_interleave(2, dim=0))
        torch.testing.assert_close(after[-1], before[-1])


def test_crop_of_one_value_stays_finite():
    changed = draw().apply(torch.full((3, 2, 4, 6, 8), 2.5))
    assert torch.isfinite(changed).all()


def test_modality_does_not_depend_on_the_others(stacks):
    changes = draw()
    other = stacks.clone()
    other[:, 1] = 7.0
    assert torch.equal(changes.apply(stacks)[:, 0], changes.apply(other)[:, 0])


@pytest.mark.parametrize(
    "changes",
    [{field.name: -0.1} for field in fields(IntensityConfig)]
    + [{"blur": 1.1}, {"coarse": 1.1}],
)
def test_invalid_strength_is_rejected(changes):
    with pytest.raises(ConfigError, match=f"IntensityConfig.{next(iter(changes))}: "):
        IntensityConfig(**changes)


def test_selected_changes_are_those_of_the_modality(stacks):
    changes = draw()
    # Noise is drawn for all modalities at once.
    quiet = replace(changes, noise=torch.zeros_like(changes.noise))
    chosen = quiet.select([1]).apply(stacks[:, 1:2])
    torch.testing.assert_close(chosen, quiet.apply(stacks)[:, 1:2])
