import numpy as np
import pytest
from nibabel.affines import apply_affine

from brainfeat.io.volumes import read_volume
from brainfeat.preprocessing.brain_search import find_brain, find_center
from brainfeat.preprocessing.resampling import downsample, reorient_to_ras
from brainfeat.preprocessing.template import BRAIN_CENTER
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


def found_in(volume):
    volume = reorient_to_ras(volume)
    return find_brain(volume, downsample(volume, 4.0))


@pytest.fixture(scope="module")
def head(head_path):
    return reorient_to_ras(read_volume(head_path))


@pytest.fixture(scope="module")
def brain_ml(head):
    return found_in(head).ml


def test_brain_of_a_head_is_found_whole(head_path, brain_ml):
    mask = read_volume(head_path.with_name("atlas_mask.nii.gz"))
    expected = (mask.data > 0).sum() * np.prod(mask.geometry.spacing) / 1e3
    assert brain_ml == pytest.approx(expected, rel=0.08)


def test_constant_around_a_head_does_not_make_it_stripped(head, brain_ml):
    """A background of 1, as some scanners write, and a dark skull."""
    air = head.data < 0.08 * np.percentile(head.data, 99.0)
    flat = np.where(air, np.float32(1.0), head.data + np.float32(1.0))
    found = found_in(Volume(flat, head.geometry))
    assert not found.is_stripped
    assert found.ml == pytest.approx(brain_ml, rel=0.06)


def test_bright_noise_around_a_head_does_not_matter(head, brain_ml, rng):
    """As in images of MP2RAGE."""
    bright = np.percentile(head.data, 99.0)
    air = head.data < 0.08 * bright
    noise = rng.uniform(0.0, bright, head.data.shape).astype(np.float32)
    found = found_in(Volume(np.where(air, noise, head.data), head.geometry))
    assert found.ml == pytest.approx(brain_ml, rel=0.06)


@pytest.mark.parametrize("towards", [0.0, 1.0], ids=["centre", "side"])
def test_coil_that_is_brightest_in_one_place_does_not_matter(head, brain_ml, towards):
    grid = np.indices(head.data.shape).astype(np.float32)
    size = np.array(head.data.shape, np.float32)[:, None, None, None]
    place = grid / size - 0.5
    place[0] += 0.4 * towards
    field = 0.3 + np.exp(-(place**2).sum(axis=0) / 0.15)
    found = found_in(Volume(head.data * field.astype(np.float32), head.geometry))
    assert found.ml == pytest.approx(brain_ml, rel=0.06)


def test_fluid_that_a_stripped_brain_encloses_is_kept(small_brain):
    """Ventricles as dark as the background."""
    i, j, k = (np.array(small_brain.data.shape) // 2).tolist()
    data = small_brain.data.copy()
    data[i - 3 : i + 4, j - 4 : j + 6, k - 2 : k + 4] = 0.0
    whole, holed = found_in(small_brain), found_in(Volume(data, small_brain.geometry))
    assert holed.is_stripped
    assert holed.ml == pytest.approx(whole.ml, rel=0.005)


def test_noise_has_no_brain(rng):
    data = rng.random((60, 62, 64)).astype(np.float32)
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    assert found_in(Volume(data, Geometry(data.shape, affine))) is None
