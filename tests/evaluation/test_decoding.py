import nibabel as nib
import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from brainfeat.evaluation import decoding
from brainfeat.evaluation.decoding import decode_positions
from brainfeat.evaluation.folds import outer_folds
from brainfeat.exceptions import ConfigError, InputError
from brainfeat.preprocessing.template import load_template

# 20 mm tokens over the brain of MNI152.
AFFINE = np.diag([20.0, 20.0, 20.0, 1.0])
AFFINE[:3, 3] = [-70, -100, -60]
SHAPE = (8, 10, 7)
POSITION = (5, 4, 3)


@pytest.fixture
def images(rng):
    """40 rows; the odd ones differ at one token."""
    rows = rng.normal(size=(40, *SHAPE, 6)).astype(np.float32)
    rows[1::2][(slice(None), *POSITION)] += 1.5
    return [nib.Nifti1Image(row, AFFINE) for row in rows]


Y = np.arange(40) % 2


def test_only_the_token_with_an_effect_is_significant(images):
    result = decode_positions(images, Y, n_repeats=1, n_permutations=99)
    auc = result.auc_img.get_fdata()
    assert np.unravel_index(auc.argmax(), SHAPE) == POSITION
    corrected = result.corrected_p_img.get_fdata()
    assert corrected[POSITION] == pytest.approx(0.01)
    assert (corrected < 0.05).sum() == 1
    assert (result.p_img.get_fdata() <= corrected).all()
    np.testing.assert_array_equal(result.auc_img.affine, AFFINE)


def test_permuted_labels_are_significant_nowhere(images, rng):
    result = decode_positions(
        images, rng.permutation(Y), n_repeats=1, n_permutations=99
    )
    assert (result.corrected_p_img.get_fdata() > 0.05).all()
    auc = result.auc_img.get_fdata()
    assert 0.4 < auc[auc > 0].mean() < 0.6


@pytest.mark.parametrize("tail", ["light", "heavy"])
def test_score_is_that_of_a_ridge_probe_scaled_by_training_rows(rng, tail):
    # With heavy tails, a scale that includes the test rows gives other scores.
    draw = rng.normal if tail == "light" else rng.standard_cauchy
    rows = draw(size=(40, 2, 1, 1, 6)).astype(np.float32)
    rows[1::2, 0] += 1.5
    result = decode_positions(
        [nib.Nifti1Image(row, AFFINE) for row in rows],
        Y,
        mask_img=nib.Nifti1Image(np.ones((2, 1, 1), np.uint8), AFFINE),
        n_repeats=1,
        n_permutations=2,
    )
    for position in range(2):
        values = rows[:, position, 0, 0].astype(float)
        aucs = []
        for train, test in outer_folds(Y, np.arange(40), 0):
            model = make_pipeline(StandardScaler(), Ridge(6.0))
            scores = model.fit(values[train], Y[train]).predict(values[test])
            aucs.append(roc_auc_score(Y[test], scores))
        auc = result.auc_img.get_fdata()[position, 0, 0]
        assert auc == pytest.approx(np.mean(aucs), abs=1e-6)


def test_tokens_in_the_brain_are_decoded(images):
    result = decode_positions(images, Y, n_repeats=1, n_permutations=2)
    inside = np.argwhere(result.p_img.get_fdata() < 1)
    brain = load_template("brain_mask")
    to_voxel = np.linalg.inv(brain.geometry.affine) @ AFFINE
    voxels = np.rint(inside @ to_voxel[:3, :3].T + to_voxel[:3, 3]).astype(int)
    assert 150 < len(inside) < 350
    sizes = np.array(brain.data.shape)
    assert brain.data[tuple(voxels.clip(0, sizes - 1).T)].mean() > 0.8


def test_images_must_share_a_grid(images):
    moved = nib.Nifti1Image(images[3].get_fdata(), AFFINE + np.eye(4)[::-1])
    with pytest.raises(InputError, match=r"images\[3\]: expected the affine"):
        decode_positions([*images[:3], moved], [0, 1, 0, 1])
    with pytest.raises(InputError, match=r"images\[1\]: expected a 4D image"):
        decode_positions([images[0], images[1].slicer[:4]], [0, 1])


def test_mask_must_have_the_grid_of_the_images(images):
    empty = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE)
    with pytest.raises(InputError, match=r"tokens to decode from.*got 0"):
        decode_positions(images, Y, mask_img=empty)
    flipped = nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE * [-1, 1, 1, 1])
    with pytest.raises(InputError, match=r"mask_img: .* got another affine"):
        decode_positions(images, Y, mask_img=flipped)
    with pytest.raises(InputError, match=r"mask_img: .* got shape \(4, 10, 7\)"):
        decode_positions(images, Y, mask_img=flipped.slicer[:4])


def test_mask_may_hold_nan_around_the_brain(images):
    mask = np.full(SHAPE, np.nan)
    mask[POSITION] = 1
    result = decode_positions(
        images, Y, mask_img=nib.Nifti1Image(mask, AFFINE), n_repeats=1, n_permutations=2
    )
    assert np.argwhere(result.auc_img.get_fdata()).tolist() == [[*POSITION]]


def test_invalid_images_are_refused(images):
    values = images[2].get_fdata()
    values[POSITION] = np.nan
    images[2] = nib.Nifti1Image(values, AFFINE)
    with pytest.raises(InputError, match=r"images\[2\]: expected finite tokens"):
        decode_positions(images, Y)
    with pytest.raises(InputError, match=r"images\[0\]: .* got str"):
        decode_positions(["a.nii.gz"], [0])
    with pytest.raises(InputError, match="got none"):
        decode_positions([], [])
    with pytest.raises(ConfigError, match="n_repeats=0"):
        decode_positions(images, Y, n_repeats=0)


def test_permutation_without_a_score_does_not_lower_the_p_value(images, monkeypatch):
    monkeypatch.setattr(
        decoding, "permute_labels", lambda labels, *_: np.zeros((len(labels), 9), int)
    )
    result = decode_positions(images, Y, n_repeats=1, n_permutations=9)
    assert (result.p_img.get_fdata() == 1).all()
    assert (result.corrected_p_img.get_fdata() == 1).all()
