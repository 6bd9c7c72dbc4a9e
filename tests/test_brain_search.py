import numpy as np
import pytest
from nibabel.affines import apply_affine

from brainfeat.brain_search import (
    BRAIN_CENTER,
    _mutual_information,
    _sample_nearest,
    find_center,
    find_starts,
)
from brainfeat.io import read_volume
from brainfeat.resampling import to_closest_ras, to_shrunk
from brainfeat.template import load_template
from brainfeat.volume import Geometry, Volume


def moved(volume, shift):
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += shift
    return Volume(volume.data, Geometry(volume.data.shape, affine))


@pytest.mark.parametrize("shift", [(0, 0, 0), (31, -17, 43)])
def test_center_of_a_brain_moves_with_it(small_brain, shift):
    center = find_center(moved(small_brain, shift))
    np.testing.assert_allclose(center - shift, BRAIN_CENTER, atol=12)


def test_center_of_a_full_head_lies_in_its_brain(head_path):
    volume = to_shrunk(to_closest_ras(read_volume(head_path)), 4.0)
    mask = read_volume(head_path.with_name("atlas_mask.nii.gz"))
    center = find_center(volume)
    voxel = apply_affine(np.linalg.inv(mask.geometry.affine), center)
    assert mask.data[tuple(np.rint(voxel).astype(int))] > 0


def test_starts_have_one_of_each_size_near_the_template_itself():
    volume = to_shrunk(load_template("T1w"), 6.0)
    starts = find_starts(volume, 1)
    sizes = [np.cbrt(np.linalg.det(start[:3, :3])) for start in starts]
    np.testing.assert_allclose(sizes, [0.8, 0.9, 1.0])
    true_size = starts[-1]
    np.testing.assert_allclose(true_size[:3, :3], np.eye(3), atol=0.18)
    np.testing.assert_allclose(
        apply_affine(true_size, BRAIN_CENTER), BRAIN_CENTER, atol=16
    )


def test_points_are_looked_up_as_one_by_one(rng):
    bins = rng.integers(1, 16, size=(7, 5, 6))
    points = rng.uniform(-2, 8, size=(50, 3))
    matrices = np.tile(np.eye(4), (3, 1, 1))
    matrices[:, :3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    matrices[:, :3, 3] = rng.uniform(0, 6, size=(3, 3))
    found = _sample_nearest(bins, points, matrices)
    for matrix, row in zip(matrices, found, strict=True):
        for point, value in zip(points, row, strict=True):
            voxel = np.rint(apply_affine(matrix, point)).astype(int)
            inside = all(0 <= i < n for i, n in zip(voxel, bins.shape, strict=True))
            assert value == (bins[tuple(voxel)] if inside else 0)
    assert (found == 0).any()


def test_mutual_information_equals_its_sum_over_pairs(rng):
    first, second = rng.integers(0, 4, size=40), rng.integers(0, 3, size=(2, 40))
    for row, information in zip(
        second, _mutual_information(first, second), strict=True
    ):
        expected = 0.0
        for a in range(4):
            for b in range(3):
                both = np.mean((first == a) & (row == b))
                if both > 0:
                    apart = np.mean(first == a) * np.mean(row == b)
                    expected += both * np.log(both / apart)
        assert information == pytest.approx(expected)
