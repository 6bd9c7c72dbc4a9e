import math

import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy import ndimage, optimize

from brainfeat import simulate_cohort
from brainfeat.io.volumes import read_labels, read_volume
from brainfeat.preprocessing.alignment import (
    _clip_brightest,
    _Comparison,
    _Moving,
    align_to_template,
)
from brainfeat.preprocessing.head_model import load_head_model
from brainfeat.preprocessing.resampling import reorient_to_ras
from brainfeat.preprocessing.template import BRAIN_CENTER, load_template
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
    alignment = align_to_template(head, "T1w")
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
        alignment = align_to_template(read_volume(head[modality]), modality)
        assert overlap(alignment.affine, read_labels(head["dseg"])) > 0.9


@pytest.mark.slow
def test_unknown_contrast_takes_the_most_similar_model(simulated_heads):
    volume = read_volume(simulated_heads[0]["T2w"])
    unnamed, named = align_to_template(volume, "PDw"), align_to_template(volume, "T2w")
    np.testing.assert_array_equal(unnamed.affine, named.affine)


@pytest.fixture(scope="module")
def head(head_path):
    return reorient_to_ras(read_volume(head_path))


@pytest.fixture(scope="module")
def aligned(head):
    return align_to_template(head, "T1w").affine


@pytest.mark.parametrize("side", [0, -1], ids=["left", "right"])
def test_head_cut_at_a_side_is_aligned(head, aligned, side):
    edge = apply_affine(np.linalg.inv(head.geometry.affine) @ aligned, (70.0, 0, 0))
    n_planes = head.data.shape[0]
    n_cut = round(n_planes - edge[0] + 20.0 / head.geometry.spacing[0])
    kept = slice(n_cut, None) if side == 0 else slice(n_planes - n_cut)
    affine = head.geometry.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (kept.start or 0)
    data = head.data[kept]
    cut = align_to_template(Volume(data, Geometry(data.shape, affine)), "T1w")
    assert distance_in_brain(cut.affine, aligned) < 6.0


@pytest.mark.parametrize("size", [0.72, 0.8, 1.16])
def test_smaller_and_larger_brains_are_aligned(head, aligned, size):
    factor = size / np.cbrt(np.linalg.det(aligned[:3, :3]))
    resized = np.diag([factor, factor, factor, 1.0])
    affine = resized @ head.geometry.affine
    volume = Volume(head.data, Geometry(head.data.shape, affine))
    alignment = align_to_template(volume, "T1w")
    assert distance_in_brain(alignment.affine, resized @ aligned) < 4.0


def test_noisy_head_is_aligned(head, aligned, rng):
    brightness = head.data[head.data > np.percentile(head.data, 80)].mean()
    noise = rng.normal(0.0, 0.5 * brightness, (2, *head.data.shape))
    noisy = np.hypot(head.data + noise[0], noise[1]).astype(np.float32)
    alignment = align_to_template(Volume(noisy, head.geometry), "T1w")
    assert distance_in_brain(alignment.affine, aligned) < 4.0


@pytest.mark.parametrize("factor", [1e-20, 1e20])
def test_unit_of_intensities_does_not_matter(head, aligned, factor):
    other = Volume(head.data * np.float32(factor), head.geometry)
    alignment = align_to_template(other, "T1w")
    assert distance_in_brain(alignment.affine, aligned) < 0.1


def test_order_of_axes_does_not_matter(head, aligned):
    for axes in [(0, 1, 2), (2, 0, 1), (1, 2, 0)]:
        data = np.ascontiguousarray(head.data.transpose(axes)[::-1])
        turn = np.eye(4)[:, [*axes, 3]]
        turn[:, 0] *= -1.0
        turn[axes[0], 3] = head.data.shape[axes[0]] - 1.0
        affine = head.geometry.affine @ turn
        stored = Volume(data, Geometry(data.shape, affine))
        np.testing.assert_array_equal(align_to_template(stored, "T1w").affine, aligned)


def test_origin_of_the_scanner_does_not_matter(head, aligned):
    away = np.eye(4)
    away[:3, 3] = (900.0, -700.0, 400.0)
    moved = Volume(head.data, Geometry(head.data.shape, away @ head.geometry.affine))
    alignment = align_to_template(moved, "T1w")
    assert distance_in_brain(alignment.affine, away @ aligned) < 0.01


def test_inverted_head_does_not_match(small_brain):
    model = load_head_model("T1w", 8.0, 8.0)
    inverted = Volume(-small_brain.data, small_brain.geometry)
    parameters = np.array(
        [0, 0, 0, 1, 0, 0, 1, 0, 1, 0, *(np.array(BRAIN_CENTER[1:]) / 50)]
    )
    comparison = _Comparison(_Moving(inverted, 3.0), model, 100.0)
    assert comparison.similarity(parameters) < -0.7
    # All of the variation is left unexplained.
    residuals = comparison.residuals(parameters)[: len(model.points)]
    assert np.linalg.norm(residuals) == pytest.approx(10.0)


def test_prior_on_size_holds_where_a_volume_shows_no_edge():
    """A ball has no brain's edge: the fit is near the size of adults."""
    grid = np.indices((70, 70, 70)) - 34.5
    ball = (np.linalg.norm(grid, axis=0) < 30.0).astype(np.float32)
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    alignment = align_to_template(Volume(ball, Geometry(ball.shape, affine)), "FLAIR")
    stretch = np.linalg.svd(alignment.affine[:3, :3])[1]
    assert alignment.is_registered
    assert ((stretch > 0.6) & (stretch < 1.3)).all()


def test_jacobian_is_that_of_the_residuals(small_brain):
    model = load_head_model("T1w", 8.0, 8.0)
    # Smooth, so that the interpolation has few kinks.
    comparison = _Comparison(_Moving(small_brain, 8.0), model, 100.0)
    parameters = np.array([0.1, -0.05, 0.02, 0.95, 0.01, 0, 0.9, 0.02, 1, 0, -0.3, 0.2])
    expected = optimize.approx_fprime(parameters, comparison.residuals, 1e-4)
    jacobian = comparison.jacobian(parameters)
    errors = np.linalg.norm(jacobian - expected, axis=0)
    assert (errors < 0.15 * np.linalg.norm(expected, axis=0)).all()


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


@pytest.mark.parametrize("side", [-1, 1])
def test_middle_may_lie_outside_the_volume(rng, side):
    """As in a rotated, nearly empty grid without a head."""
    affine = np.diag([20.0, 30.0, 40.0, 1.0])
    affine[:3, 3] = side * 900.0
    data = rng.random((5, 6, 7)).astype(np.float32)
    clipped = _clip_brightest(Volume(data, Geometry(data.shape, affine)))
    assert (clipped.data <= data).all()


def test_volume_without_contrast_is_only_centred():
    shape = (60, 62, 64)
    geometry = Geometry(shape, np.diag([3.0, 3.0, 3.0, 1.0]))
    alignment = align_to_template(Volume(np.full(shape, 7.0, np.float32), geometry))
    assert not alignment.is_registered
    assert np.isfinite(alignment.affine).all()
