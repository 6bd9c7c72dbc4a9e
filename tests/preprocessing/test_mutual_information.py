import numpy as np
import pytest
from scipy import ndimage

from brainfeat.preprocessing.mutual_information import (
    agree_on_sides,
    mutual_information,
    peak_ratio,
    to_levels,
)


@pytest.fixture
def texture(rng):
    """Smooth noise, whose voxels resemble their neighbours only."""
    return ndimage.gaussian_filter(rng.normal(size=(24, 27, 21)), 1.5)


def test_levels_cover_the_range_and_mark_what_is_not_known(rng):
    values = rng.normal(size=(9, 11, 13))
    values[:2] = np.nan
    levels = to_levels(values)
    assert (levels[:2] == -1).all()
    assert levels[2:].min() == 0
    assert levels[2:].max() == 31
    order = np.argsort(values[2:], axis=None)
    assert (np.diff(levels[2:].ravel()[order]) >= 0).all()
    assert (to_levels(np.full((4, 5, 6), np.nan)) == -1).all()


def test_information_equals_its_naive_sum(rng):
    first, second = rng.integers(0, 5, (2, 8, 9, 10)).astype(np.int16)
    second = np.where(rng.random(second.shape) < 0.5, first, second)
    expected = 0.0
    for a in range(5):
        for b in range(5):
            joint = np.mean((first == a) & (second == b))
            apart = np.mean(first == a) * np.mean(second == b)
            expected += joint * np.log(joint / apart)
    assert mutual_information(first, second) == pytest.approx(expected)


def test_information_does_not_depend_on_the_contrast(texture):
    levels = to_levels(texture)
    whole = mutual_information(levels, levels)
    inverted = mutual_information(levels, to_levels(-3.0 * texture + 5.0))
    assert inverted == pytest.approx(whole, rel=0.05)
    assert mutual_information(levels, levels[::-1, ::-1]) < 0.3 * whole


def test_too_few_voxels_tell_nothing(texture):
    levels = to_levels(texture)
    part = np.full_like(levels, -1)
    part[:4, :4, :4] = levels[:4, :4, :4]
    assert mutual_information(levels, part) == 0.0
    assert peak_ratio(levels, part, 2) == np.inf


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_peak_is_where_volumes_lie_on_each_other(texture, axis):
    first, second = to_levels(texture), to_levels(-texture)
    assert peak_ratio(first, second, 3) < 0.5
    assert peak_ratio(first, np.roll(second, 3, axis), 3) > 2.0


def test_mirrored_sides_disagree(texture):
    first, second = to_levels(texture), to_levels(-texture)
    assert agree_on_sides(first, second) > 0.9
    assert agree_on_sides(first, second[::-1]) < -0.3
