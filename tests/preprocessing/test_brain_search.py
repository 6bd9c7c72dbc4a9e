import numpy as np
import pytest
from nibabel.affines import apply_affine

from brainfeat.io.volumes import read_volume
from brainfeat.preprocessing.brain_search import (
    _correlate,
    _sample_nearest,
    find_center,
    find_starts,
)
from brainfeat.preprocessing.head_model import load_head_model
from brainfeat.preprocessing.resampling import downsample, reorient_to_ras
from brainfeat.preprocessing.template import BRAIN_CENTER, load_template
from brainfeat.volume import Geometry, Volume


def moved(volume, shift):
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += shift
    return Volume(volume.data, Geometry(volume.data.shape, affine))


@pytest.mark.parametrize("shift", [(0, 0, 0), (31, -17, 43)])
def test_center_of_a_brain_moves_with_it(small_brain, shift):
    center = find_center(moved(small_brain, shift))
    np.testing.assert_allclose(center - shift, BRAIN_CENTER, atol=12)


def test_center_of_a_full_head_is_in_its_brain(head_path):
    volume = downsample(reorient_to_ras(read_volume(head_path)), 4.0)
    mask = read_volume(head_path.with_name("atlas_mask.nii.gz"))
    center = find_center(volume)
    voxel = apply_affine(np.linalg.inv(mask.geometry.affine), center)
    assert mask.data[tuple(np.rint(voxel).astype(int))] > 0


def test_starts_are_the_typical_pose_and_one_of_each_size():
    volume = downsample(load_template("T1w"), 8.0)
    starts = find_starts(volume, load_head_model("T1w", 14.0, 14.0))
    sizes = [np.cbrt(np.linalg.det(start[:3, :3])) for start in starts]
    np.testing.assert_allclose(sizes, [0.95, 0.78, 0.92, 1.06, 1.2])
    np.testing.assert_array_equal(starts[0][:3, 3], [0.0, 0.0, -10.0])
    nearest = min(starts[1:], key=lambda start: np.abs(start - np.eye(4))[:3, :3].max())
    np.testing.assert_allclose(nearest[:3, :3], np.eye(3), atol=0.18)
    np.testing.assert_allclose(nearest[:3, 3], BRAIN_CENTER, atol=16)


def test_vectorised_lookup_equals_single_lookups(rng):
    affine = np.eye(4)
    affine[:3, :3] = np.diag([2.0, 3.0, 1.5]) @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    affine[:3, 3] = -5.0, 2.0, 7.0
    volume = Volume(rng.random((7, 5, 6)), Geometry((7, 5, 6), affine))
    points = apply_affine(affine, rng.uniform(-2, 8, size=(50, 3)))
    shifts = rng.uniform(-3, 3, size=(4, 3))
    sampled = _sample_nearest(volume, points, shifts)
    n_outside = 0
    for shift, row in zip(shifts, sampled, strict=True):
        for point, value in zip(points, row, strict=True):
            voxel = np.rint(apply_affine(np.linalg.inv(affine), point + shift))
            nearest = np.clip(voxel, 0, np.array(volume.data.shape) - 1)
            n_outside += not np.array_equal(nearest, voxel)
            assert value == volume.data[tuple(nearest.astype(int))]
    assert n_outside


def test_correlation_is_pearsons(rng):
    model = rng.normal(size=40)
    model = (model - model.mean()) / np.linalg.norm(model - model.mean())
    sampled = rng.normal(5.0, 2.0, size=(3, 40))
    expected = [np.corrcoef(model, row)[0, 1] for row in sampled]
    np.testing.assert_allclose(_correlate(model, sampled), expected)


def test_correlation_with_a_constant_is_zero():
    assert _correlate(np.array([0.6, -0.8]), np.full((1, 2), 3.0)) == pytest.approx(0.0)
