import dataclasses
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from nibabel.affines import apply_affine
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from scipy import ndimage

from brainfeat.exceptions import ConfigError, ModalityError, VolumeError
from brainfeat.io.volumes import read_volume
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.preprocessing.template import load_template
from brainfeat.volume import Geometry, Volume

SMALL = Preprocessor(shape=(54, 70, 56), spacing=3.0)
OBLIQUE = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]])
LAYOUTS = {
    "RAS": np.eye(3),
    "LPS": np.diag([-1, -1, 1]),
    "PIR": np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]]),
    "SAL": np.array([[0, 0, -1], [0, 1, 0], [1, 0, 0]]),
    "oblique": OBLIQUE,
    "thick": np.diag([0.9, 0.9, 2.5]),
}


def native_grid(layout, spacing=2.0):
    """A grid around the template brain with axes of the layout."""
    linear = LAYOUTS[layout] * spacing
    extent = np.array([170.0, 206.0, 178.0])
    reach = np.abs(np.linalg.inv(linear) @ np.diag(extent)).sum(axis=1)
    shape = tuple(int(size) for size in np.ceil(reach) + 3)
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = [0, -17, 8] - linear @ ((np.array(shape) - 1) / 2)
    return Geometry(shape, affine)


def sample_template(name, grid):
    """The template at the nearest millimetre: the same brain on any grid."""
    source = load_template(name)
    world = apply_affine(grid.affine, np.indices(grid.shape).reshape(3, -1).T)
    voxels = np.rint(apply_affine(np.linalg.inv(source.geometry.affine), world))
    inside = ((voxels >= 0) & (voxels < source.data.shape)).all(axis=1)
    i, j, k = np.where(inside[:, None], voxels, 0).astype(int).T
    values = np.where(inside, source.data[i, j, k], 0).reshape(grid.shape)
    return Volume(values.astype(source.data.dtype), grid)


@pytest.fixture(scope="module")
def subject(small_brain):
    return SMALL.apply({"T1w": small_brain, "T2w": None}, ["T1w", "T2w"])


def test_foreground_has_z_scores_and_the_rest_the_lowest(subject):
    values = subject.data[0][subject.foreground]
    assert values.mean() == pytest.approx(0, abs=1e-4)
    assert values.std() == pytest.approx(1, abs=1e-4)
    outside = subject.data[0][~subject.foreground]
    assert np.ptp(outside) == 0
    assert outside[0] == pytest.approx(values.min(), abs=1e-5)


def test_missing_modality_is_zero(subject):
    assert subject.present.tolist() == [True, False]
    assert not subject.data[1].any()


@pytest.mark.parametrize(
    ("scale", "offset"), [(37.5, -120), (1e-30, 0), (2e36, -2.5e38)]
)
def test_intensity_scale_and_offset_do_not_matter(small_brain, subject, scale, offset):
    data = small_brain.data.astype(np.float64) * scale + offset
    scaled = Volume(data.astype(np.float32), small_brain.geometry)
    again = SMALL.apply({"T1w": scaled}, ["T1w"])
    # Rounding may move a voxel over the edge of the brain.
    assert np.mean(np.abs(again.data[0] - subject.data[0]) > 0.02) < 1e-4
    np.testing.assert_allclose(again.grid_to_scanner, subject.grid_to_scanner, atol=0.1)


def test_stripped_brain_may_have_nothing_around_it(small_brain, subject):
    data = np.where(small_brain.data > 0, small_brain.data, np.nan)
    affine = small_brain.geometry.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ [9, 10, 11]
    data = np.pad(data, [(9, 12), (10, 13), (11, 14)], constant_values=np.nan)
    again = SMALL.apply({"T1w": Volume(data, Geometry(data.shape, affine))}, ["T1w"])
    np.testing.assert_allclose(again.grid_to_scanner, subject.grid_to_scanner, atol=0.2)
    assert np.corrcoef(again.data[0].ravel(), subject.data[0].ravel())[0, 1] > 0.98


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def standardised(brain, around):
    inside = brain.data > 0
    values = brain.data[inside]
    data = np.where(inside, (brain.data - values.mean()) / values.std(), around)
    return Volume(data, brain.geometry)


def test_stripped_brain_may_have_a_mean_like_its_background(small_brain, subject):
    again = SMALL.apply({"T1w": standardised(small_brain, around=0)}, ["T1w"])
    assert dice(again.foreground, subject.foreground) > 0.97
    both = again.foreground & subject.foreground
    scores = np.corrcoef(again.data[0][both], subject.data[0][both])
    assert scores[0, 1] > 0.98


@pytest.fixture(scope="module")
def head(head_path):
    return read_volume(head_path)


@pytest.fixture(scope="module")
def padded_head(head):
    return SMALL.apply({"T1w": padded(head, 0)}, ["T1w"])


def padded(head, value):
    data = np.pad(head.data, 30, constant_values=value)
    affine = head.geometry.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ [30, 30, 30]
    return Volume(data, Geometry(data.shape, affine))


@pytest.mark.parametrize("value", [-70_000, -3e38, 5_000, 3e38])
def test_value_around_a_head_does_not_matter(head, padded_head, value):
    again = SMALL.apply({"T1w": padded(head, value)}, ["T1w"])
    assert again.quality.similarity > 0.8
    assert dice(again.foreground, padded_head.foreground) > 0.97


@pytest.mark.parametrize("value", [-32768, 3e38])
def test_one_extreme_voxel_does_not_matter(head, value):
    data = head.data.copy()
    data[50, 70, 60] = value
    expected = SMALL.apply({"T1w": head}, ["T1w"])
    subject = SMALL.apply({"T1w": Volume(data, head.geometry)}, ["T1w"])
    assert dice(subject.foreground, expected.foreground) > 0.98


def test_one_bright_plane_does_not_matter(head):
    data = head.data.copy()
    data[0] = 60_000
    subject = SMALL.apply({"T1w": Volume(data, head.geometry)}, ["T1w"])
    assert subject.quality.similarity > 0.8


def test_flat_background_amid_the_intensities_does_not_matter(head):
    expected = SMALL.apply({"T1w": head}, ["T1w"]).grid_to_scanner
    mean = np.float32(head.data[head.data > 50].mean())
    background = head.data <= 20
    background[:4] = background[-4:] = True
    masked = Volume(np.where(background, mean, head.data), head.geometry)
    grid_to_scanner = SMALL.apply({"T1w": masked}, ["T1w"]).grid_to_scanner
    brain = SMALL.geometry.center + np.array([[50, 0, 0], [0, -60, 0], [0, 0, 40]])
    gaps = apply_affine(grid_to_scanner, brain) - apply_affine(expected, brain)
    assert np.linalg.norm(gaps, axis=1).mean() < 4.0


def test_stripped_brain_may_have_something_bright_around_it(small_brain, subject):
    again = SMALL.apply({"T1w": standardised(small_brain, around=10)}, ["T1w"])
    assert dice(again.foreground, subject.foreground) > 0.97


@pytest.mark.parametrize("layout", LAYOUTS)
def test_storage_of_a_brain_does_not_matter(layout):
    """Cosine similarity of the voxels themselves, before any encoder."""
    reference = SMALL.apply(
        {"T1w": sample_template("T1w", native_grid("RAS"))}, ["T1w"]
    ).data.ravel()
    stored = sample_template("T1w", native_grid(layout))
    data = SMALL.apply({"T1w": stored}, ["T1w"]).data.ravel()
    norms = np.linalg.norm(data) * np.linalg.norm(reference)
    assert data @ reference / norms > 0.97


@pytest.mark.parametrize("alignment", ["none", "rigid", "affine"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_label_map_survives_grid_and_back(layout, alignment):
    """Two large label regions of the native grid: only borders may change."""
    native = native_grid(layout)
    brain = sample_template("T1w", native)
    world = apply_affine(native.affine, np.indices(native.shape).reshape(3, -1).T)
    left = (world[:, 0] < 3).reshape(native.shape)
    labels = np.where(brain.data > 0, np.where(left, 1, 300), 0).astype(np.int32)
    tool = Preprocessor(spacing=2.0, alignment=alignment)
    subject = tool.apply({"T1w": brain}, ["T1w"])
    on_grid = tool.apply_labels(Volume(labels, native), subject)
    back = tool.invert(on_grid, subject, native)
    assert back.geometry.is_close(native)
    assert set(np.unique(back.data)) <= {0, 1, 300}
    for label in (1, 300):
        first, second = labels == label, back.data == label
        assert 2 * (first & second).sum() / (first.sum() + second.sum()) > 0.95
        shift = apply_affine(native.affine, np.argwhere(first).mean(axis=0))
        shift -= apply_affine(native.affine, np.argwhere(second).mean(axis=0))
        assert np.linalg.norm(shift) < 0.5  # mm


def test_scores_are_inverted_linearly(subject, small_brain):
    ramp = np.broadcast_to(
        np.linspace(0, 1, 54, dtype=np.float32)[:, None, None], SMALL.shape
    )
    back = SMALL.invert(ramp, subject, small_brain.geometry)
    assert back.data.dtype == np.float32
    assert len(np.unique(back.data)) > 54


def test_few_damaged_voxels_are_filled(small_brain, subject):
    data = small_brain.data.copy()
    data[:2, :2] = np.nan
    data[0, 0, 0] = np.inf
    again = SMALL.apply({"T1w": Volume(data, small_brain.geometry)}, ["T1w"])
    np.testing.assert_allclose(again.data[0], subject.data[0], atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 5.0, np.nan])
def test_volume_without_contrast_is_rejected(value):
    shape = (40, 41, 42)
    flat = Volume(
        np.full(shape, value, np.float32), Geometry(shape, np.diag([4, 4, 4, 1.0]))
    )
    with pytest.raises(VolumeError, match="expected"):
        SMALL.apply({"T1w": flat}, ["T1w"])


def test_unexpected_modalities_are_rejected(small_brain):
    with pytest.raises(ModalityError, match="PDw"):
        SMALL.apply({"PDw": small_brain}, ["T1w"])
    with pytest.raises(ModalityError, match="no volume"):
        SMALL.apply({"T1w": None}, ["T1w"])


def test_bias_correction_flattens_a_bias_field(small_brain):
    ramp = np.linspace(0.5, 1.5, small_brain.data.shape[1], dtype=np.float32)
    biased = Volume(small_brain.data * ramp[None, :, None], small_brain.geometry)
    coarse = Preprocessor(shape=(40, 52, 42), spacing=4.0)
    truth = coarse.apply({"T1w": small_brain}, ["T1w"])

    def similarity(tool):
        got = tool.apply({"T1w": biased}, ["T1w"])
        both = got.foreground & truth.foreground
        return np.corrcoef(got.data[0][both], truth.data[0][both])[0, 1]

    correct = dataclasses.replace(coarse, bias_correction=True)
    assert similarity(correct) > similarity(coarse) + 0.05


@pytest.mark.parametrize("codes", ["LAS", "LPS", "PIR", "SAL", "ASR", "IPR", "RSA"])
def test_flips_and_permutations_change_no_bit(small_brain, subject, codes):
    target = axcodes2ornt(codes)
    flips = ornt_transform(io_orientation(small_brain.geometry.affine), target)
    data = apply_orientation(small_brain.data, flips)
    affine = small_brain.geometry.affine @ inv_ornt_aff(flips, small_brain.data.shape)
    stored = Volume(data, Geometry(data.shape, affine))
    assert stored.geometry.orientation == codes
    again = SMALL.apply({"T1w": stored}, ["T1w"])
    np.testing.assert_array_equal(again.data[0], subject.data[0])
    np.testing.assert_array_equal(again.grid_to_scanner, subject.grid_to_scanner)


def test_threads_change_no_bit(small_brain, subject):
    def run(_):
        return SMALL.apply({"T1w": small_brain}, ["T1w"]).data[0]

    with ThreadPoolExecutor(3) as pool:
        for data in pool.map(run, range(3)):
            np.testing.assert_array_equal(data, subject.data[0])


def test_modalities_share_the_transform_of_the_first(small_brain, subject):
    inverted = Volume(-small_brain.data, small_brain.geometry)
    both = SMALL.apply({"T1w": small_brain, "T2w": inverted}, ["T1w", "T2w"])
    np.testing.assert_array_equal(both.grid_to_scanner, subject.grid_to_scanner)
    np.testing.assert_array_equal(both.data[0], subject.data[0])
    # Away from the background, which is darker than the brain in both.
    inside = ndimage.binary_erosion(both.foreground, iterations=3)
    scores = np.corrcoef(both.data[1][inside], both.data[0][inside])
    assert scores[0, 1] < -0.999


def test_modality_that_covers_half_the_brain_is_standardised_there(small_brain):
    half = small_brain.data.shape[2] // 2
    upper = small_brain.geometry.affine.copy()
    upper[:3, 3] += upper[:3, 2] * half
    data = small_brain.data[:, :, half:]
    flair = Volume(data, Geometry(data.shape, upper))
    both = SMALL.apply({"T1w": small_brain, "FLAIR": flair}, ["T1w", "FLAIR"])
    covered = both.foreground & (both.data[1] > both.data[1].min())
    assert 0.3 < covered.sum() / both.foreground.sum() < 0.8
    assert both.data[1][covered].mean() == pytest.approx(0, abs=0.05)
    # Where both know the brain, they differ by an offset and a scale at most.
    assert np.corrcoef(both.data[:, covered])[0, 1] > 0.99


@pytest.mark.parametrize("alignment", ["none", "rigid", "affine"])
@pytest.mark.parametrize("shape", [(10, 1, 1), (1, 7, 1), (1, 1, 13), (60, 50, 1)])
def test_line_or_slice_of_noise_is_preprocessed(rng, shape, alignment):
    volume = Volume(rng.normal(size=shape), Geometry(shape, np.eye(4)))
    subject = Preprocessor(alignment=alignment).apply({"T1w": volume}, ["T1w"])
    assert np.isfinite(subject.data).all()
    assert subject.foreground.any()
    assert np.isnan(subject.quality.similarity)


def test_one_bright_voxel_is_no_error():
    data = np.zeros((50, 51, 52), np.float32)
    data[20, 25, 30] = 1.0
    volume = Volume(data, Geometry(data.shape, np.diag([2.5, 2.5, 2.5, 1.0])))
    subject = SMALL.apply({"T1w": volume}, ["T1w"])
    assert np.isfinite(subject.data).all()


def test_error_starts_with_the_file_or_the_modality(small_brain, tmp_path):
    flat = np.ones_like(small_brain.data)
    for path, start in [(tmp_path / "scan.nii.gz", "scan.nii.gz: "), (None, "FLAIR: ")]:
        volumes = {
            "T1w": small_brain,
            "FLAIR": Volume(flat, small_brain.geometry, path),
        }
        with pytest.raises(VolumeError, match=f"{start}expected contrast"):
            SMALL.apply(volumes, ["T1w", "FLAIR"])


def test_small_real_image_is_preprocessed(anatomical_path):
    subject = SMALL.apply({"T1w": read_volume(anatomical_path)}, ["T1w"])
    assert np.isnan(subject.quality.similarity)
    assert subject.foreground.any()


@pytest.mark.parametrize(
    "change",
    [
        {"shape": (40, 48, 44)},
        {"spacing": 2.5},
        {"alignment": "affine"},
        {"bias_correction": True},
        {"brain_mask": "{stem}_mask.nii.gz"},
        {"percentiles": (1.0, 99.0)},
    ],
)
def test_each_setting_is_stored_and_changes_the_fingerprint(change):
    changed = Preprocessor(**change)
    assert changed != Preprocessor()
    assert hash(changed) == hash(pickle.loads(pickle.dumps(changed)))
    assert changed.fingerprint != Preprocessor().fingerprint
    assert Preprocessor.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed


@pytest.mark.parametrize(
    "change",
    [
        {"shape": (40, 48)},
        {"shape": (40, 48, 0)},
        {"shape": 40},
        {"spacing": 0.0},
        {"spacing": float("inf")},
        {"alignment": "elastic"},
        {"bias_correction": 1},
        {"brain_mask": 7},
        {"brain_mask": ""},
        {"percentiles": (99.0, 1.0)},
        {"percentiles": ("1", "99")},
    ],
)
def test_invalid_settings_are_rejected(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        Preprocessor(**change)


@pytest.mark.parametrize("name", ["shape", "percentiles"])
def test_list_in_place_of_a_tuple_is_rejected(name):
    value = list(getattr(Preprocessor(), name))
    with pytest.raises(ConfigError, match=f"{name}: expected a tuple of"):
        Preprocessor(**{name: value})


def test_integers_of_numpy_are_the_same_setting():
    same = Preprocessor(shape=tuple(np.array([80, 104, 80])))
    assert same.fingerprint == Preprocessor().fingerprint


def test_unknown_setting_is_rejected():
    with pytest.raises(ConfigError, match="resolution"):
        Preprocessor.from_dict({"resolution": 1})
