import pickle

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from brainfeat.embedding.recipe import (
    EncoderRecipe,
    _kept_encoder,
    encode_remotely,
)
from brainfeat.exceptions import CheckpointError, VolumeError
from brainfeat.io.hashing import hash_images
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.subjects.subject import Subject

pytestmark = pytest.mark.filterwarnings(
    "ignore::brainfeat.exceptions.UntrainedCheckpointWarning"
)


@pytest.fixture
def subjects(small_scans):
    paths = sorted(map(str, small_scans.rglob("*.nii.gz")))[:3]
    return [Subject(path, {"T1w": path}) for path in paths]


def test_a_recipe_is_small_and_makes_the_same_encoder(small_checkpoint, subjects):
    recipe = EncoderRecipe(checkpoint=small_checkpoint, batch_size=2)
    encoder = recipe.build()
    sent = pickle.dumps(recipe.for_workers(encoder))
    assert len(sent) < 2000
    outcomes = encode_remotely(pickle.loads(sent), subjects, None, True)
    expected = [outcome.vector for outcome in encoder.stream(subjects)]
    np.testing.assert_array_equal([o.vector for o in outcomes], expected)
    assert [o.input_sha256 for o in outcomes] == [
        hash_images(subject.images) for subject in subjects
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_workers_take_the_precision_of_the_encoder_here(small_checkpoint, dtype):
    """Their processors may like another, as a login node's and a GPU's do."""
    encoder = EncoderRecipe(checkpoint=small_checkpoint, dtype=dtype).build()
    sent = EncoderRecipe(checkpoint=small_checkpoint).for_workers(encoder)
    assert sent.build().precision == dtype


def test_paths_hold_in_another_folder(small_checkpoint, tmp_path, monkeypatch):
    link = tmp_path / "encoder"
    link.symlink_to(small_checkpoint)
    monkeypatch.chdir(tmp_path)
    recipe = EncoderRecipe(checkpoint="encoder")
    sent = recipe.for_workers(recipe.build())
    monkeypatch.chdir("/")
    assert sent.build().n_features == 24


def test_a_folder_with_the_name_of_a_bundled_checkpoint_is_not_taken_for_it(
    small_checkpoint, tmp_path, monkeypatch
):
    (tmp_path / "brainfound-tiny").symlink_to(small_checkpoint)
    monkeypatch.chdir(tmp_path)
    recipe = EncoderRecipe(checkpoint="brainfound-tiny")
    encoder = recipe.build()
    sent = recipe.for_workers(encoder).build()
    assert sent.checkpoint.fingerprint == encoder.checkpoint.fingerprint


def test_another_checkpoint_in_the_worker_is_refused(small_checkpoint):
    recipe = EncoderRecipe(checkpoint=small_checkpoint, fingerprint="f" * 64)
    with pytest.raises(CheckpointError, match="another checkpoint in this worker"):
        recipe.build()


def test_errors_can_be_sent_and_keep_their_traceback(small_checkpoint, subjects):
    recipe = EncoderRecipe(checkpoint=small_checkpoint)
    bad = [Subject("/a.nii", {"T1w": "/a.nii"}), subjects[0]]
    bad.append(
        Subject(subjects[1].participant_id, {"T1w": small_checkpoint + "/config.json"})
    )
    first, good, last = pickle.loads(
        pickle.dumps(encode_remotely(recipe, bad, None, True))
    )
    assert good.error is None
    for outcome, name in ((first, "/a.nii"), (last, "config.json")):
        assert outcome.vector is None
        assert isinstance(outcome.error, VolumeError)
        assert name in str(outcome.error)
        assert "Traceback" in outcome.error.__notes__[0]


@pytest.mark.usefixtures("without_registration")
@pytest.mark.parametrize("form", ["path", "image", "mapping"])
def test_regions_go_to_a_worker_that_cannot_read_the_atlas(
    small_checkpoint, subjects, tmp_path, monkeypatch, form
):
    preprocessor = Preprocessor(shape=(32, 40, 24), spacing=6.0, alignment="affine")
    labels = np.ones(preprocessor.shape, np.uint8)
    labels[:14] = 2
    image = nib.Nifti1Image(labels, preprocessor.geometry.affine)
    nib.save(image, tmp_path / "atlas.nii.gz")
    monkeypatch.chdir(tmp_path)
    lut = pd.DataFrame({"index": [1, 2], "name": ["right", "left"]})
    given = {"maps": "atlas.nii.gz", "lut": lut}
    recipe = EncoderRecipe(
        checkpoint=small_checkpoint,
        preprocessor=preprocessor,
        pooling="regions",
        labels_img={"path": "atlas.nii.gz", "image": image, "mapping": given}[form],
        batch_size=2,
    )
    encoder = recipe.build()
    sent = pickle.dumps(recipe.for_workers(encoder))
    (tmp_path / "atlas.nii.gz").unlink()
    outcomes = encode_remotely(pickle.loads(sent), subjects, None, False)
    expected = [outcome.vector for outcome in encoder.stream(subjects)]
    np.testing.assert_array_equal([o.vector for o in outcomes], expected)
    kept = _kept_encoder(pickle.loads(sent))
    assert kept is _kept_encoder(pickle.loads(sent))
    assert kept.region_names == encoder.region_names
