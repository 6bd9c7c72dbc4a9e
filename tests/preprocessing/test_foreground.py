import numpy as np
import pytest

from brainfeat.preprocessing.foreground import (
    _high_percentile,
    find_flat_background,
    find_head,
    otsu_threshold,
)

SHAPE = (21, 23, 25)


def ball(shape, radius):
    middle = (np.array(shape) - 1).reshape(3, 1, 1, 1) / 2
    return np.linalg.norm(np.indices(shape) - middle, axis=0) <= radius


def test_threshold_separates_two_classes(rng):
    dark, bright = rng.normal(10, 1, 900), rng.normal(50, 2, 300)
    assert dark.max() < otsu_threshold(np.concatenate([dark, bright])) < bright.min()


def test_threshold_of_one_value_is_that_value():
    assert otsu_threshold(np.full(SHAPE, 7.0)) == 7.0


def test_head_includes_the_dark_ventricles_that_it_encloses(rng):
    head, ventricle = ball(SHAPE, 9), ball(SHAPE, 3)
    data = rng.normal(5, 1, SHAPE)
    data[head & ~ventricle] += 100
    np.testing.assert_array_equal(find_head(data), head)


def test_volume_without_contrast_is_all_head():
    assert find_head(np.ones(SHAPE)).all()


@pytest.mark.parametrize("value", [0.0, -3.0, 12.0])
def test_flat_background_is_found_whatever_its_value(rng, value):
    data = rng.normal(50, 5, SHAPE)
    data[~ball(SHAPE, 9)] = value
    assert find_flat_background(data) == value


def test_noisy_background_is_not_flat(rng):
    assert find_flat_background(rng.normal(50, 5, SHAPE)) is None


@pytest.mark.parametrize("size", [1, 7, 100, 5000])
@pytest.mark.parametrize("kind", ["spread", "equal", "few"])
def test_high_percentile_is_numpys(rng, size, kind):
    values = {
        "spread": rng.normal(size=size),
        "equal": np.ones(size),
        "few": rng.integers(0, 3, size=size),
    }[kind].astype(np.float32)
    percentile = _high_percentile(values, 99.0)
    assert percentile == pytest.approx(np.percentile(values, 99.0), rel=1e-6)
