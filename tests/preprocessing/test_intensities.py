import numpy as np
import pytest

from brainfeat.exceptions import VolumeError
from brainfeat.preprocessing.intensities import repair, standardise
from brainfeat.volume import Geometry, Volume

SHAPE = (20, 24, 28)
GRID = Geometry(SHAPE, np.diag([4.0, 4.0, 4.0, 1.0]))


def test_repair_keeps_sound_intensities(rng):
    data = rng.normal(size=SHAPE).astype(np.float32)
    np.testing.assert_array_equal(repair(Volume(data, GRID)).data, data)


@pytest.mark.parametrize("damage", [np.nan, np.inf, -np.inf, 1e300])
def test_repair_sets_damaged_voxels_to_the_lowest(rng, damage):
    data = rng.normal(size=SHAPE)
    data[:9] = damage
    repaired = repair(Volume(data, GRID)).data
    assert repaired.dtype == np.float32
    assert (repaired[:9] == repaired[9:].min()).all()
    np.testing.assert_array_equal(repaired[9:], data[9:].astype(np.float32))


def test_only_a_background_among_the_intensities_is_darkened(rng):
    data = np.zeros(SHAPE, np.float32)
    data[4:-4, 5:-5, 6:-6] = rng.gamma(9.0, size=(12, 14, 16))
    data[3, 6:14, 8:20] = -0.3  # as interpolation rings
    np.testing.assert_array_equal(repair(Volume(data, GRID)).data, data)
    inside = data > 0
    centred = np.where(inside, data - 9.0, 0).astype(np.float32)
    repaired = repair(Volume(centred, GRID)).data
    np.testing.assert_array_equal(repaired[inside], centred[inside])
    assert repaired[0, 0, 0] < np.percentile(centred[inside], 1)


@pytest.mark.parametrize("background", [-1000.0, 1000.0])
def test_background_is_darker_than_the_rest_but_not_by_far(rng, background):
    data = np.full(SHAPE, background, np.float32)
    rest = np.s_[4:-4, 5:-5, 6:-6]
    data[rest] = rng.gamma(9.0, size=(12, 14, 16))
    repaired = repair(Volume(data, GRID)).data
    np.testing.assert_array_equal(repaired[rest], data[rest])
    assert -np.ptp(data[rest]) < repaired[0, 0, 0] < np.percentile(data[rest], 1)


def test_brain_in_a_large_empty_field_is_no_outlier(rng):
    data = rng.normal(0.0, 1.0, (60, 60, 60)).astype(np.float32)
    data[20:36, 20:36, 20:36] = rng.gamma(9.0, 30.0, (16, 16, 16))  # 2 %
    np.testing.assert_array_equal(
        repair(Volume(data, Geometry(data.shape, np.eye(4)))).data, data
    )


@pytest.mark.parametrize(("background", "brain"), [(0, 1), (1, 0), (0, 300)])
def test_mask_keeps_its_background(background, brain):
    data = np.full(SHAPE, background, np.float32)
    data[4:-4, 5:-5, 6:-6] = brain
    np.testing.assert_array_equal(repair(Volume(data, GRID)).data, data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.full(SHAPE, 3), "expected contrast, got 3"),
        (np.full(SHAPE, np.nan), "100% NaN"),
        (np.where(np.arange(13440) % 10, np.inf, 3).reshape(SHAPE), "90% NaN"),
    ],
)
def test_unusable_intensities_are_rejected(data, words):
    with pytest.raises(VolumeError, match=words):
        repair(Volume(data, GRID))


def test_scores_do_not_depend_on_scale_and_offset(rng):
    data = rng.gamma(2.0, size=SHAPE)
    foreground = rng.random(SHAPE) < 0.4
    scores = standardise(data, foreground, (0.5, 99.5))
    again = standardise(7.0 * data - 300.0, foreground, (0.5, 99.5))
    np.testing.assert_allclose(scores, again, atol=1e-5)
    assert scores[foreground].mean() == pytest.approx(0, abs=1e-5)
    assert scores[foreground].std() == pytest.approx(1, abs=1e-5)
    assert set(scores[~foreground]) == {scores[foreground].min()}


def test_outliers_are_clipped_at_percentiles(rng):
    data = rng.normal(size=SHAPE)
    data[3, 4, 5] = 1e6
    scores = standardise(data, np.ones(SHAPE, bool), (0.5, 99.5))
    assert scores.max() < 4


def test_constant_foreground_is_rejected():
    with pytest.raises(VolumeError, match="one value"):
        standardise(np.ones(SHAPE), np.ones(SHAPE, bool), (0.5, 99.5))
