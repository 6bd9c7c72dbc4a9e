"""Doubt falls on what is no whole, upright, adult brain, and on nothing else."""

import numpy as np
import pytest

from brainfeat.io.volumes import read_volume
from brainfeat.preprocessing.alignment import align_to_template
from brainfeat.preprocessing.axis_orders import axis_turns
from brainfeat.preprocessing.brain_checks import find_doubts
from brainfeat.preprocessing.resampling import downsample, reorient_to_ras
from brainfeat.volume import Geometry, Volume

# The template is larger than nearly all brains.
ADULT = np.diag([0.9, 0.9, 0.9, 1.0])


def moved(volume, affine, data=None):
    data = volume.data if data is None else data
    geometry = Geometry(data.shape, affine @ volume.geometry.affine)
    return Volume(np.asarray(data, np.float32), geometry)


def doubts(volume, modality="T1w"):
    volume = reorient_to_ras(volume)
    return "; ".join(find_doubts(volume, align_to_template(volume), modality))


@pytest.fixture
def adult(small_brain):
    return moved(small_brain, ADULT)


def inverted(volume):
    """Dark white matter, bright fluid."""
    data = volume.data
    return np.where(data > 0, 1.1 * data.max() - data, 0.0)


@pytest.mark.parametrize("modality", ["T1w", "T1ce", "PDw", None])
def test_a_whole_brain_is_not_in_doubt(adult, modality):
    assert not doubts(adult, modality)


def test_an_inverted_brain_is_like_t2w_and_unlike_t1w(adult):
    dark = Volume(inverted(adult).astype(np.float32), adult.geometry)
    assert not doubts(dark, "T2w")
    assert "contrast of T1w" in doubts(dark, "T1w")
    assert "contrast of T2w" in doubts(adult, "T2w")


@pytest.mark.parametrize("axes", ["LPS", "LAI", "RPI", "SRA", "ASR"])
def test_a_better_order_of_axes_is_named(adult, axes):
    affine = np.eye(4)
    affine[:3, :3] = dict(axis_turns())[axes]
    assert f"fits {axes} better" in doubts(moved(adult, affine))


@pytest.mark.parametrize("axes", ["LPS", "RPI"])
def test_a_wrong_order_of_a_whole_head_is_in_doubt(head_path, axes):
    head = downsample(reorient_to_ras(read_volume(head_path)), 2.0)
    assert "the image fits" not in doubts(head)
    affine = np.eye(4)
    affine[:3, :3] = dict(axis_turns())[axes]
    assert doubts(moved(head, affine))


def test_an_order_of_axes_is_worded_in_that_of_the_file(adult):
    volume = reorient_to_ras(moved(adult, np.diag([-1.0, -1.0, 1.0, 1.0])))
    alignment = align_to_template(volume)
    for header, fits in (("RAS", "LPS"), ("LPS", "RAS"), ("PIR", "AIL")):
        text = find_doubts(volume, alignment, "T1w", header)[0]
        assert f"the header says {header}, the image fits {fits} better" in text


def test_a_mirrored_header_is_not_in_doubt(adult):
    assert not doubts(moved(adult, np.diag([-1.0, 1.0, 1.0, 1.0])))


@pytest.mark.parametrize("sizes", [(0.7, 0.7, 0.7), (1.25, 1.25, 1.25)])
def test_other_sizes_than_an_adults_are_in_doubt(small_brain, sizes):
    assert "adult" in doubts(moved(small_brain, np.diag([*sizes, 1.0])))


def test_parts_of_a_brain_are_in_doubt(adult):
    half = adult.data.copy()
    half[: half.shape[0] // 2] = 0.0
    assert doubts(Volume(half, adult.geometry))
    slab = adult.data[:, :, 20:38]
    assert "only centred" in doubts(moved(adult, np.eye(4), slab))


def test_maps_of_labels_and_probabilities_are_in_doubt(adult):
    levels = np.quantile(adult.data[adult.data > 0], [0.3, 0.7])
    labels = np.where(adult.data > 0, 1 + np.digitize(adult.data, levels), 0)
    assert "equal neighbours" in doubts(moved(adult, np.eye(4), labels))
    low, high = levels
    white = np.clip((adult.data - low) / (high - low), 0.0, 1.0)
    assert doubts(moved(adult, np.eye(4), white * (adult.data > 0)))


def test_thick_slices_of_a_localizer_are_in_doubt(adult):
    few = adult.data[::8]
    affine = adult.geometry.affine @ np.diag([8.0, 1.0, 1.0, 1.0])
    localizer = Volume(few.astype(np.float32), Geometry(few.shape, affine))
    assert "slices of at most 9 mm, got 22 mm" in doubts(localizer)


def test_a_sphere_is_in_doubt(rng):
    x, y, z = np.ogrid[-95:95:3.0, -98:98:3.0, -101:101:3.0]
    data = np.where(x**2 + y**2 + z**2 < 82.0**2, 500.0, 0.0)
    data += np.abs(rng.normal(0.0, 9.0, data.shape))
    grid = Geometry(data.shape, np.diag([3.0, 3.0, 3.0, 1.0]))
    assert doubts(Volume(data.astype(np.float32), grid))


def test_noise_is_in_doubt(rng):
    data = rng.normal(100.0, 20.0, (50, 60, 55)).astype(np.float32)
    grid = Geometry(data.shape, np.diag([3.0, 3.0, 3.0, 1.0]))
    assert doubts(Volume(data, grid))
