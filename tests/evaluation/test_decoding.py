import nibabel as nib
import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
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
PLACE = (5, 4, 3)


@pytest.fixture
def images(rng):
    """40 rows; the odd ones differ at one token."""
    rows = rng.normal(size=(40, *SHAPE, 6)).astype(np.float32)
    rows[1::2][(slice(None), *PLACE)] += 1.5
    return [nib.Nifti1Image(row, AFFINE) for row in rows]


Y = np.arange(40) % 2


def test_maximum_is_where_the_effect_is_and_nowhere_else(images):
    found = decode_positions(images, Y, n_repeats=1, n_permutations=99)
    auc = found.auc_img.get_fdata()
    assert np.unravel_index(auc.argmax(), SHAPE) == PLACE
    corrected = found.corrected_p_img.get_fdata()
    assert corrected[PLACE] == pytest.approx(0.01)
    assert (corrected < 0.05).sum() == 1
    assert (found.p_img.get_fdata() <= corrected).all()
    np.testing.assert_array_equal(found.auc_img.affine, AFFINE)


def test_shuffled_labels_are_read_nowhere(images, rng):
    found = decode_positions(images, rng.permutation(Y), n_repeats=1, n_permutations=99)
    assert (found.corrected_p_img.get_fdata() > 0.05).all()
    auc = found.auc_img.get_fdata()
    assert 0.4 < auc[auc > 0].mean() < 0.6


def test_score_is_that_of_a_ridge_probe_at_the_token(images):
    mask = np.zeros(SHAPE, np.uint8)
    mask[PLACE] = mask[1, 2, 3] = 1
    found = decode_positions(
        images, Y, mask_img=nib.Nifti1Image(mask, AFFINE), n_repeats=1, n_permutations=2
    )
    for place in (PLACE, (1, 2, 3)):
        rows = np.stack([image.get_fdata()[place] for image in images])
        won = []
        for train, test in outer_folds(Y, np.arange(40), 0):
            scaler = StandardScaler().fit(rows[train])
            model = Ridge(6.0).fit(scaler.transform(rows[train]), Y[train])
            scores = model.predict(scaler.transform(rows[test]))
            won.append(roc_auc_score(Y[test], scores))
        assert found.auc_img.get_fdata()[place] == pytest.approx(np.mean(won), abs=1e-6)
    assert (found.auc_img.get_fdata() > 0).sum() <= 2


def test_tokens_of_the_brain_are_decoded(images):
    found = decode_positions(images, Y, n_repeats=1, n_permutations=2)
    inside = np.argwhere(found.p_img.get_fdata() < 1)
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


def test_mask_must_fit(images):
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
    mask[PLACE] = 1
    found = decode_positions(
        images, Y, mask_img=nib.Nifti1Image(mask, AFFINE), n_repeats=1, n_permutations=2
    )
    assert np.argwhere(found.auc_img.get_fdata()).tolist() == [[*PLACE]]


def test_what_is_no_number_is_told_from_a_score(images):
    values = images[2].get_fdata()
    values[PLACE] = np.nan
    images[2] = nib.Nifti1Image(values, AFFINE)
    with pytest.raises(InputError, match=r"images\[2\]: expected finite tokens"):
        decode_positions(images, Y)
    with pytest.raises(InputError, match=r"images\[0\]: .* got str"):
        decode_positions(["a.nii.gz"], [0])
    with pytest.raises(InputError, match="got none"):
        decode_positions([], [])
    with pytest.raises(ConfigError, match="n_repeats=0"):
        decode_positions(images, Y, n_repeats=0)


def test_draw_without_a_score_is_not_a_lower_one(images, monkeypatch):
    monkeypatch.setattr(
        decoding, "permute_labels", lambda labels, *_: np.zeros((len(labels), 9), int)
    )
    found = decode_positions(images, Y, n_repeats=1, n_permutations=9)
    assert (found.p_img.get_fdata() == 1).all()
    assert (found.corrected_p_img.get_fdata() == 1).all()
