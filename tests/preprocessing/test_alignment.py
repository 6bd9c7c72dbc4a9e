import math

import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy import ndimage

from brainfeat import simulate_cohort
from brainfeat.io.volumes import read_labels, read_volume
from brainfeat.preprocessing.alignment import align_to_template
from brainfeat.preprocessing.resampling import reorient_to_ras
from brainfeat.preprocessing.template import load_template
from brainfeat.volume import Geometry, Volume


def rotated(degrees, shift, scale=1.0):
    """Map template to scanner mm: two rotations, a shift and a scale."""
    pitch, yaw = np.deg2rad(degrees), np.deg2rad(0.6 * degrees)
    about_x, about_z = np.eye(4), np.eye(4)
    about_x[1:3, 1:3] = [
        [np.cos(pitch), -np.sin(pitch)],
        [np.sin(pitch), np.cos(pitch)],
    ]
    about_z[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    move = np.diag([scale, scale, scale, 1.0])
    move[:3, 3] = shift
    return move @ about_z @ about_x


def moved_brain(move):
    """Move the template's 2 mm voxels, without interpolation."""
    brain = load_template("T1w")
    data = brain.data[::2, ::2, ::2]
    affine = move @ brain.geometry.affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    return Volume(data, Geometry(data.shape, affine))


def distance_in_brain(affine, expected):
    """Mean distance in mm between two maps of the template brain."""
    brain = load_template("brain_mask")
    points = apply_affine(brain.geometry.affine, np.argwhere(brain.data)[::997])
    gaps = apply_affine(affine, points) - apply_affine(expected, points)
    return np.linalg.norm(gaps, axis=1).mean()


def overlap(affine, mask):
    """Dice of the registered template brain and a mask."""
    brain = load_template("brain_mask")
    to_brain = (
        np.linalg.inv(brain.geometry.affine)
        @ np.linalg.inv(affine)
        @ mask.geometry.affine
    )
    moved = ndimage.affine_transform(
        brain.data.astype(np.float32), to_brain, output_shape=mask.data.shape, order=1
    )
    truth, brain = mask.data > 0, moved > 0.5
    return 2 * (truth & brain).sum() / (truth.sum() + brain.sum())


@pytest.mark.parametrize(
    "move",
    [
        np.eye(4),
        rotated(8, (4, -6, 9)),
        rotated(-14, (-25, 30, 60)),
        rotated(5, (0, 8, -5), scale=0.9),
    ],
    ids=["still", "pitched", "far", "small"],
)
def test_known_transform_is_recovered(move):
    alignment = align_to_template(moved_brain(move))
    assert distance_in_brain(alignment.affine, move) < 2.0


def test_contrast_does_not_matter():
    """Brightness of tissues in any order, as of T2w and FLAIR."""
    brain = moved_brain(rotated(6, (3, -5, 8), scale=0.92))
    aligned = align_to_template(brain).affine
    inside = brain.data > 0
    steps = np.linspace(0.0, brain.data.max(), 5)
    for brightness in ((1.0, 0.9, 0.5, 0.4, 0.3), (0.2, 0.3, 0.8, 0.5, 0.4)):
        other = np.interp(brain.data, steps, brightness) * inside
        volume = Volume(other.astype(np.float32), brain.geometry)
        found = align_to_template(volume)
        assert distance_in_brain(found.affine, aligned) < 1.5
        assert found.similarity > 0.85


def test_rigid_part_is_a_rotation_about_the_brain():
    move = rotated(8, (4, -6, 9), scale=0.9)
    rigid = align_to_template(moved_brain(move)).rigid
    np.testing.assert_allclose(rigid[:3, :3] @ rigid[:3, :3].T, np.eye(3), atol=1e-9)
    assert np.linalg.det(rigid[:3, :3]) == pytest.approx(1.0)
    assert distance_in_brain(rigid, move) < 8.0


def test_result_is_deterministic():
    volume = moved_brain(rotated(8, (4, -6, 9)))
    first, second = align_to_template(volume), align_to_template(volume)
    np.testing.assert_array_equal(first.affine, second.affine)


def test_full_head_is_aligned(head_path):
    head = read_volume(head_path)
    mask = read_volume(head_path.with_name("atlas_mask.nii.gz"))
    alignment = align_to_template(head)
    assert alignment.is_registered
    assert overlap(alignment.affine, mask) > 0.91


@pytest.fixture(scope="module")
def simulated_heads(tmp_path_factory):
    """Two subjects in three contrasts, with brain masks."""
    folder = tmp_path_factory.mktemp("heads")
    table = simulate_cohort(
        folder, n_subjects=2, modalities=("T1w", "T2w", "FLAIR"), random_state=3
    )
    return table.to_dict("records")


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["T1w", "T2w", "FLAIR"])
def test_brain_is_aligned_in_every_contrast(simulated_heads, modality):
    for head in simulated_heads:
        alignment = align_to_template(read_volume(head[modality]))
        assert overlap(alignment.affine, read_labels(head["dseg"])) > 0.9


@pytest.fixture(scope="module")
def head(head_path):
    return reorient_to_ras(read_volume(head_path))


@pytest.fixture(scope="module")
def aligned(head):
    return align_to_template(head).affine


@pytest.mark.parametrize("side", [0, -1], ids=["left", "right"])
def test_head_cut_at_a_side_is_aligned(head, aligned, side):
    edge = apply_affine(np.linalg.inv(head.geometry.affine) @ aligned, (70.0, 0, 0))
    n_planes = head.data.shape[0]
    n_cut = round(n_planes - edge[0] + 20.0 / head.geometry.spacing[0])
    kept = slice(n_cut, None) if side == 0 else slice(n_planes - n_cut)
    affine = head.geometry.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (kept.start or 0)
    data = head.data[kept]
    cut = align_to_template(Volume(data, Geometry(data.shape, affine)))
    assert distance_in_brain(cut.affine, aligned) < 6.0


@pytest.mark.parametrize("size", [0.72, 0.8, 1.16])
def test_smaller_and_larger_brains_are_aligned(head, aligned, size):
    factor = size / np.cbrt(np.linalg.det(aligned[:3, :3]))
    resized = np.diag([factor, factor, factor, 1.0])
    affine = resized @ head.geometry.affine
    volume = Volume(head.data, Geometry(head.data.shape, affine))
    alignment = align_to_template(volume)
    assert distance_in_brain(alignment.affine, resized @ aligned) < 4.0


def test_noisy_head_is_aligned(head, aligned, rng):
    brightness = head.data[head.data > np.percentile(head.data, 80)].mean()
    noise = rng.normal(0.0, 0.5 * brightness, (2, *head.data.shape))
    noisy = np.hypot(head.data + noise[0], noise[1]).astype(np.float32)
    alignment = align_to_template(Volume(noisy, head.geometry))
    assert distance_in_brain(alignment.affine, aligned) < 4.0


@pytest.mark.parametrize("factor", [1e-20, 1e20])
def test_unit_of_intensities_does_not_matter(head, aligned, factor):
    other = Volume(head.data * np.float32(factor), head.geometry)
    alignment = align_to_template(other)
    assert distance_in_brain(alignment.affine, aligned) < 0.1


def test_order_of_axes_does_not_matter(head, aligned):
    for axes in [(0, 1, 2), (2, 0, 1), (1, 2, 0)]:
        data = np.ascontiguousarray(head.data.transpose(axes)[::-1])
        turn = np.eye(4)[:, [*axes, 3]]
        turn[:, 0] *= -1.0
        turn[axes[0], 3] = head.data.shape[axes[0]] - 1.0
        affine = head.geometry.affine @ turn
        stored = Volume(data, Geometry(data.shape, affine))
        np.testing.assert_array_equal(align_to_template(stored).affine, aligned)


def test_origin_of_the_scanner_does_not_matter(head, aligned):
    away = np.eye(4)
    away[:3, 3] = (900.0, -700.0, 400.0)
    moved = Volume(head.data, Geometry(head.data.shape, away @ head.geometry.affine))
    alignment = align_to_template(moved)
    assert distance_in_brain(alignment.affine, away @ aligned) < 0.01


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((10, 1, 1), (1, 1, 1)),
        ((30, 31, 32), (1, 1, 1)),
        ((64, 64, 20), (1, 1, 1)),
        ((1, 120, 110), (100, 1, 1)),
    ],
)
def test_volume_too_small_to_register_is_centred(rng, shape, spacing):
    geometry = Geometry(shape, np.diag([*spacing, 1.0]))
    volume = Volume(rng.random(shape).astype(np.float32), geometry)
    alignment = align_to_template(volume)
    assert not alignment.is_registered
    assert math.isnan(alignment.similarity)
    np.testing.assert_array_equal(alignment.affine[:3, :3], np.eye(3))


def test_noise_is_only_centred(rng):
    shape = (60, 62, 64)
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    volume = Volume(rng.random(shape).astype(np.float32), Geometry(shape, affine))
    alignment = align_to_template(volume)
    assert not alignment.is_registered
    assert np.isfinite(alignment.affine).all()


def test_volume_without_contrast_is_only_centred():
    shape = (60, 62, 64)
    geometry = Geometry(shape, np.diag([3.0, 3.0, 3.0, 1.0]))
    alignment = align_to_template(Volume(np.full(shape, 7.0, np.float32), geometry))
    assert not alignment.is_registered
    assert np.isfinite(alignment.affine).all()
