import numpy as np
import pytest
from nibabel.affines import apply_affine

from brainfeat.brain_search import BRAIN_CENTER, find_center, find_starts
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
