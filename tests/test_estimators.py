"""The contract of scikit-learn's estimators, checked by scikit-learn itself."""

import inspect
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import validate_data

from brainfeat import (
    BrainFoundEmbedder,
    RegistrationEstimator,
    SegmentationEstimator,
)
from brainfeat.embedding import encoder_spec as encoder_spec_module
from brainfeat.io.volumes import to_image
from brainfeat.models.config import EncoderConfig
from brainfeat.preprocessing.preprocessor import Preprocessor


class ArrayEmbedder(BrainFoundEmbedder):
    """Takes arrays, as the checks do: a row of numbers is a line of voxels."""

    def fit(self, X, y=None):
        return super().fit(to_images(validate_data(self, X)), y)

    def transform(self, X):
        return super().transform(to_images(validate_data(self, X, reset=False)))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.string = tags.input_tags.allow_nan = False
        return tags


def to_images(X):
    # Rows of one value are refused, as images without contrast: a ramp gives some.
    ramps = np.tile(np.arange(4, dtype=np.float32), (len(X), 1))
    lines = np.concatenate([ramps, X.astype(np.float32)], axis=1)[:, :, None, None]
    return [nib.Nifti1Image(line, np.eye(4)) for line in lines]


@dataclass(frozen=True)
class Everywhere:
    """A brain mask whose repr has no address, so that test names are stable."""

    def __call__(self, volume):
        return np.ones(volume.data.shape, dtype=bool)


# One slab of three patches in a row, over a line of voxels.
GRID = Preprocessor(
    shape=(24, 8, 2), spacing=1.0, alignment="none", brain_mask=Everywhere()
)


@pytest.fixture
def line_checkpoint(make_checkpoint, monkeypatch):
    """Stands in for every checkpoint that is loaded."""
    config = EncoderConfig(
        modalities=("T1w",),
        thickness=2,
        image_size=(8, 24),
        embed_dim=12,
        depth=1,
        num_heads=2,
    )
    checkpoint = make_checkpoint(encoder=config, missing_modalities=False)
    monkeypatch.setattr(encoder_spec_module, "shared_checkpoint", lambda _: checkpoint)


@pytest.mark.usefixtures("line_checkpoint")
@parametrize_with_checks(
    [ArrayEmbedder(preprocessor=GRID, batch_size=30, device="cpu")],
    expected_failed_checks={},
    xfail_strict=True,
)
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "kind", [BrainFoundEmbedder, RegistrationEstimator, SegmentationEstimator]
)
def test_constructor_only_stores(kind):
    given = {
        name: object()
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    estimator = kind("name", **given)
    assert estimator.get_params(deep=False) == {"checkpoint": "name", **given}
    assert vars(estimator).keys() == {"checkpoint", *given}


def test_only_the_checkpoint_is_positional():
    parameters = inspect.signature(BrainFoundEmbedder).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    assert defaults == {
        "checkpoint": "brainfound-tiny",
        "pooling": "mean",
        "labels_img": None,
        "modality": None,
        "preprocessor": None,
        "batch_size": "auto",
        "device": "auto",
        "dtype": "auto",
        "n_jobs": 1,
        "memory": None,
        "on_error": "raise",
        "verbose": 0,
    }
    kinds = {parameter.kind for parameter in list(parameters.values())[1:]}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}


def test_clone_keeps_every_parameter():
    estimator = BrainFoundEmbedder("name", pooling="cls", n_jobs=3, preprocessor=GRID)
    assert clone(estimator).get_params() == estimator.get_params()
    assert BrainFoundEmbedder().set_params(pooling="cls").pooling == "cls"


def test_tags_say_what_x_is():
    tags = BrainFoundEmbedder().__sklearn_tags__()
    assert tags.requires_fit
    assert not tags.input_tags.two_d_array
    assert tags.input_tags.string
    assert tags.input_tags.allow_nan
    assert not tags.target_tags.required
    assert tags.transformer_tags.preserves_dtype == []


def test_tags_of_a_segmentation_say_that_it_needs_label_maps():
    tags = SegmentationEstimator().__sklearn_tags__()
    assert tags.target_tags.required
    assert not tags.input_tags.two_d_array
    assert tags.input_tags.string


def test_methods_request_no_metadata():
    request = BrainFoundEmbedder().get_metadata_routing()
    assert not request.fit.requests
    assert not request.transform.requests


UNTRAINED = "ignore::brainfeat.exceptions.UntrainedCheckpointWarning"


def reoriented(image, codes):
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine),
        nib.orientations.axcodes2ornt(codes),
    )
    return image.as_reoriented(turn)


def oblique(image, degrees):
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return nib.Nifti1Image(np.asarray(image.dataobj), turn @ image.affine)


def cosines(rows):
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit @ unit.T


@pytest.mark.filterwarnings(UNTRAINED)
def test_real_scans_embed_without_options(head_path, anatomical_path, small_brain):
    X = [head_path, anatomical_path, to_image(small_brain)]
    rows = BrainFoundEmbedder().fit_transform(X)
    assert rows.shape == (3, 192)
    assert np.isfinite(rows).all()
    assert (cosines(rows)[~np.eye(3, dtype=bool)] < 0.9999).all()


@pytest.mark.filterwarnings(UNTRAINED)
def test_row_does_not_depend_on_how_the_brain_is_stored(small_brain):
    image = to_image(small_brain)
    turned = [reoriented(image, codes) for codes in ("LPS", "PIR", "SAL", "LAI")]
    rows = BrainFoundEmbedder(n_jobs=2).fit_transform([image, *turned])
    np.testing.assert_allclose(rows, np.tile(rows[0], (5, 1)), atol=1e-5)
    (tilted,) = BrainFoundEmbedder().fit_transform([oblique(image, 12.0)])
    assert cosines(np.stack([rows[0], tilted]))[0, 1] > 0.999
