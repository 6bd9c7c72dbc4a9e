import sys

import numpy as np
import pytest

from brainfeat.exceptions import ConfigError, MissingDependencyError, VolumeError
from brainfeat.io.volumes import read_volume, write_volume
from brainfeat.preprocessing.alignment import align_to_template
from brainfeat.preprocessing.brain_mask import (
    Placement,
    compute_mask,
    find_foreground,
    mask_path,
    mask_reference,
)
from brainfeat.preprocessing.foreground import find_head
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.preprocessing.resampling import reorient_to_ras, resample
from brainfeat.volume import Geometry, Volume


def bright_half(volume):
    return volume.data > np.median(volume.data)


@pytest.fixture
def noise(rng, tmp_path):
    shape = (6, 7, 8)
    grid = Geometry(shape, np.eye(4))
    path = tmp_path / "sub-1_T1w.nii.gz"
    return Volume(rng.random(shape).astype(np.float32), grid, path)


@pytest.mark.parametrize("suffix", [".nii.gz", ".NII.GZ", ".mgz", ".hdr"])
def test_mask_file_beside_the_image_is_found_by_its_stem(noise, tmp_path, suffix):
    mask = np.zeros(noise.data.shape, np.uint8)
    mask[2:4, 3:5, 4:6] = 7
    write_volume(Volume(mask, noise.geometry), tmp_path / "sub-1_T1w_mask.nii.gz")
    image = Volume(noise.data, noise.geometry, tmp_path / f"sub-1_T1w{suffix}")
    computed = compute_mask(image, "{folder}/{stem}_mask.nii.gz")
    np.testing.assert_array_equal(computed.data, mask > 0)


def test_function_is_given_by_value_or_by_name(noise):
    name = f"{bright_half.__module__}:bright_half"
    assert mask_reference(bright_half) == name
    by_value = compute_mask(noise, bright_half)
    np.testing.assert_array_equal(by_value.data, bright_half(noise))
    by_name = compute_mask(noise, f"{__name__}:bright_half")
    np.testing.assert_array_equal(by_name.data, by_value.data)


def test_lambda_cannot_be_stored():
    with pytest.raises(ConfigError, match="top level"):
        mask_reference(lambda volume: volume.data > 0)


@pytest.mark.parametrize(
    ("brain_mask", "error"),
    [
        ("no_such_module:mask", ConfigError),
        ("math:no_such_name", ConfigError),
        ("math:pi", ConfigError),
        ("{unknown}.nii.gz", ConfigError),
        ("/no/such/mask.nii.gz", VolumeError),
        (lambda volume: np.zeros(volume.data.shape), VolumeError),
        (lambda _volume: np.ones((1, 2, 3)), VolumeError),
        (lambda volume: np.where(volume.data > 0.5, 0.9, 0.01), VolumeError),
        (lambda volume: np.where(volume.data > 0.5, 1, np.nan), VolumeError),
    ],
)
def test_unusable_mask_is_an_error(noise, brain_mask, error):
    with pytest.raises(error):
        compute_mask(noise, brain_mask)


def test_pattern_needs_an_image_from_a_file():
    assert mask_path(None, None) is None
    assert mask_path("deepbet", "a.nii") is None
    with pytest.raises(ConfigError, match="needs images from files"):
        mask_path("{stem}.nii.gz", None)


def test_missing_deepbet_names_the_extra(noise, monkeypatch):
    monkeypatch.setitem(sys.modules, "deepbet", None)
    with pytest.raises(MissingDependencyError, match=r"pip install .brainfeat\[deep"):
        compute_mask(noise, "deepbet")


def foreground_of(volume, preprocessor=None):
    volume = reorient_to_ras(volume)
    alignment = align_to_template(volume)
    placement = Placement((preprocessor or Preprocessor()).geometry, alignment.rigid)
    sampled = resample(volume, *placement, outside=np.nan)
    return find_foreground(volume, sampled, alignment, placement), placement


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def test_brain_of_a_full_head_is_found_without_a_skull_strip(head_path):
    foreground, placement = foreground_of(read_volume(head_path))
    mask = read_volume(head_path.with_name("atlas_mask.nii.gz"))
    truth = resample(reorient_to_ras(mask), *placement) > 0.5
    # Nearly all of it, and little else.
    assert (truth & foreground).sum() / truth.sum() > 0.88
    assert dice(truth, foreground) > 0.92


def test_foreground_does_not_depend_on_the_grid(head_path):
    head = read_volume(head_path)
    coarse, _ = foreground_of(head)
    fine, _ = foreground_of(head, Preprocessor(shape=(160, 208, 160), spacing=1.0))
    blocks = fine.reshape(80, 2, 104, 2, 80, 2).mean(axis=(1, 3, 5))
    assert dice(blocks >= 0.5, coarse) > 0.99


def test_brain_is_found_in_one_slice_on_a_fine_grid_of_odd_size(head_path):
    head = reorient_to_ras(read_volume(head_path))
    middle = head.data.shape[2] // 2
    affine = head.geometry.affine.copy()
    affine[:3, 3] += affine[:3, 2] * middle
    data = head.data[:, :, middle : middle + 1]
    slice_ = Volume(data, Geometry(data.shape, affine))
    subject = Preprocessor(shape=(155, 197, 153), spacing=1.0).apply(
        {"T1w": slice_}, ("T1w",)
    )
    assert 5_000 < subject.foreground.sum() < 40_000  # voxels of a square millimetre


def crisp(brain):
    """The brain with tissue of little contrast right up to its edge."""
    tissue = 100 + 20 * np.sin(np.arange(brain.data.size).reshape(brain.data.shape))
    return np.where(brain.data > 0, tissue, 0).astype(np.float32)


def test_stripped_brain_keeps_its_own_mask(small_brain):
    foreground, placement = foreground_of(
        Volume(crisp(small_brain), small_brain.geometry)
    )
    mask = (small_brain.data > 0).astype(np.float32)
    truth = resample(Volume(mask, small_brain.geometry), *placement) >= 0.5
    np.testing.assert_array_equal(foreground, truth)


def test_head_on_a_flat_background_is_no_stripped_brain(head_path):
    head = read_volume(head_path)
    inside = find_head(head.data)
    assert np.mean(~inside) > 0.3
    alone = Volume(np.where(inside, head.data, 0).astype(np.float32), head.geometry)
    expected, _ = foreground_of(head)
    foreground, _ = foreground_of(alone)
    # Without the air, the registration differs a little, too.
    assert dice(foreground, expected) > 0.95


def test_mask_of_a_stripped_brain_survives_interpolation(small_brain):
    data = crisp(small_brain)
    expected = data > 0
    for axis in range(3):
        moved = 0.75 * data + 0.25 * np.roll(data, 1, axis)  # a quarter of a voxel
        volume = Volume(moved, small_brain.geometry)
        stripped = align_to_template(volume).brain.mask
        in_place = resample(stripped, volume.geometry, np.eye(4)) >= 0.5
        assert dice(in_place, expected) > 0.97
