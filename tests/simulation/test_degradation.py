from dataclasses import fields, replace

import numpy as np
import pytest

from brainfeat.exceptions import ConfigError
from brainfeat.simulation.degradation import Degradation, DegradationConfig
from brainfeat.simulation.slice_profiles import profile_weights, resample_axis
from brainfeat.volume import Geometry, Volume

# How often each change occurs.
_PROBABILITIES = ("thick", "isotropic", "tilted", "interpolated", "stripped", "biased")
_PROBABILITIES += ("high_field", "gamma", "noisy", "mp2rage", "cropped")
NEVER = DegradationConfig(**dict.fromkeys(_PROBABILITIES, 0.0))
AFFINE = np.array([[-2.0, 0, 0, 7], [0, 0, 2.5, -9], [0, 3.0, 0, 4], [0, 0, 0, 1]])


@pytest.fixture
def head():
    """A bright ball in noisy air, stored in LSA order."""
    generator = np.random.default_rng(1)
    points = np.indices((24, 20, 26)) - np.array([12, 10, 13])[:, None, None, None]
    apart = np.linalg.norm(points * np.array([2, 3, 2.5])[:, None, None, None], axis=0)
    data = 100.0 * (apart < 22) + generator.uniform(0, 9, apart.shape)
    return Volume(data.astype(np.float32), Geometry(data.shape, AFFINE))


@pytest.fixture
def brain(head):
    return Volume((head.data > 50).astype(np.uint8), head.geometry)


def draw(config, seed=0):
    return Degradation.draw(config, np.random.default_rng(seed))


def test_no_change_gives_the_scan_in_ras_order(head, brain):
    drawn = draw(NEVER)
    assert drawn.description == "as it is"
    result = drawn.apply(head, brain)
    assert result.geometry.orientation == "RAS"
    np.testing.assert_allclose(result.data, head.data.transpose(0, 2, 1)[::-1])


def test_the_same_draw_gives_the_same_scan(head, brain):
    config = DegradationConfig()
    scans = [draw(config, seed).apply(head, brain) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(scans[0].data, scans[1].data)
    assert scans[0].data.shape != scans[2].data.shape or not np.array_equal(
        scans[0].data, scans[2].data
    )


@pytest.mark.parametrize("name", _PROBABILITIES)
def test_each_change_alone_changes_the_scan(head, brain, name):
    config = replace(NEVER, **{name: 1.0}, slices=(7.0, 7.0), voxels=(6.0, 6.0))
    config = replace(config, crop=(0.1, 0.1))
    drawn = draw(config)
    assert drawn.description != "as it is"
    changed = drawn.apply(head, brain)
    same = draw(NEVER).apply(head, brain)
    is_equal = changed.data.shape == same.data.shape and np.allclose(
        changed.data, same.data
    )
    assert not is_equal


def test_every_range_is_used():
    base = replace(DegradationConfig(), **dict.fromkeys(_PROBABILITIES[2:], 1.0))
    common = replace(base, thick=0.5, isotropic=0.5)
    for item in fields(DegradationConfig):
        value = getattr(base, item.name)
        if item.name in _PROBABILITIES or not isinstance(value, tuple):
            continue
        changed = replace(common, **{item.name: (value[1], value[1])})
        pairs = ((draw(common, seed), draw(changed, seed)) for seed in range(6))
        assert any(repr(one) != repr(other) for one, other in pairs), item.name


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thick_slices_are_means_of_thin_ones(head, axis):
    size = head.data.shape[axis] // 2 * 2
    head = Volume(head.data, head.geometry)
    spacing = head.geometry.spacing[axis]
    thick = resample_axis(head, axis, distance=2 * spacing, width=2 * spacing)
    moved = np.moveaxis(head.data, axis, 0)[:size]
    expected = moved.reshape(-1, 2, *moved.shape[1:]).mean(axis=1)
    weights = profile_weights(np.array([2.5]), 6, 2.0, 0.0)
    np.testing.assert_allclose(weights, [[0, 0, 0.5, 0.5, 0, 0]])
    np.testing.assert_allclose(np.moveaxis(thick.data, axis, 0), expected, rtol=1e-5)
    np.testing.assert_allclose(thick.geometry.center, head.geometry.center, atol=1e-9)
    assert thick.geometry.spacing[axis] == pytest.approx(2 * spacing)


def test_finer_voxels_are_interpolated_linearly(head):
    i, j, k = np.indices(head.data.shape)
    ramp = Volume((3.0 * i + j - 2 * k).astype(np.float32), head.geometry)
    fine = resample_axis(ramp, 0, distance=0.5)
    inside = fine.data[3:-3]
    np.testing.assert_allclose(np.diff(inside, axis=0), 3 * 0.5 / 2, rtol=1e-3)


def test_gaps_leave_out_what_lies_between_slices():
    near, far = (
        profile_weights(np.array([5.0]), 11, width, softness)[0]
        for width, softness in ((3.0, 0.0), (7.0, 0.5))
    )
    assert (near > 0).sum() < (far > 0).sum()
    assert near.sum() == pytest.approx(1)
    assert far.sum() == pytest.approx(1)
    np.testing.assert_allclose(far, far[::-1])


def test_a_stripped_scan_keeps_the_brain_and_little_around_it(head, brain):
    config = replace(NEVER, stripped=1.0, mask_margin=(3.0, 3.0), mask_error=0.0)
    result = draw(config).apply(head, brain)
    kept = result.data != 0
    expected = brain.data.transpose(0, 2, 1)[::-1] > 0
    assert kept[expected].all()
    assert 1.0 < kept.sum() / expected.sum() < 1.8
    with_errors = draw(replace(config, mask_error=3.0)).apply(head, brain)
    assert ((with_errors.data != 0) != kept).any()
    assert draw(config).apply(head).data.all()  # no mask is known


def test_background_of_a_stripped_scan_stays_flat(head, brain):
    stripped = Volume(head.data * brain.data, head.geometry)
    config = replace(NEVER, noisy=1.0, noise=(0.1, 0.1), mp2rage=1.0, stripped=1.0)
    result = draw(config).apply(stripped, brain)
    outside = brain.data.transpose(0, 2, 1)[::-1] == 0
    assert (result.data[outside] == 0).all()
    assert np.ptp(result.data[~outside]) > 0
    # The air around a head may be flat, too, but a head gets noise there.
    air = np.where(head.data > 50, head.data, 0)
    small = Volume((head.data > 120).astype(np.uint8), head.geometry)
    noisy = draw(replace(config, stripped=0.0)).apply(Volume(air, head.geometry), small)
    assert noisy.data[outside].std() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slices": (5.0, 2.0)}, "slices: expected the lower limit first"),
        ({"thick": 0.8, "isotropic": 0.5}, "thick: expected at most 1"),
        ({"gap": (0.0, 1.0)}, "gap: expected less than"),
        ({"crop": (0.0, 0.6)}, "crop: expected less than half"),
        ({"noisy": 2.0}, "noisy"),
    ],
)
def test_impossible_protocols_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        DegradationConfig(**changes)
