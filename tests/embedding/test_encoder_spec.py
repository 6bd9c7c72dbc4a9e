import pickle
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.embedding.distribution import (
    _kept_encoder,
    _to_outcomes,
    encode_remotely,
)
from brainfeat.embedding.encoder_spec import EncoderSpec
from brainfeat.exceptions import CheckpointError, ConfigError, VolumeError
from brainfeat.io.hashing import hash_images
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.preprocessing.recipes import InputRecipe
from brainfeat.preprocessing.steps import Resize
from brainfeat.subjects.subject import Subject

pytestmark = pytest.mark.filterwarnings(
    "ignore::brainfeat.exceptions.UntrainedCheckpointWarning"
)


@pytest.fixture
def small_subjects(small_scans):
    paths = sorted(map(str, small_scans.rglob("*.nii.gz")))[:3]
    return [Subject(path, {"T1w": path}) for path in paths]


def test_a_spec_is_small_and_makes_the_same_encoder(small_checkpoint, small_subjects):
    spec = EncoderSpec(checkpoint=small_checkpoint, batch_size=2)
    encoder = spec.build()
    sent = pickle.dumps(spec.for_workers(encoder))
    assert len(sent) < 2000
    replies = encode_remotely(pickle.loads(sent), small_subjects)
    expected = [outcome.unwrap().vector for outcome in encoder.stream(small_subjects)]
    np.testing.assert_array_equal([result.vector for result, _ in replies], expected)
    assert [result.input_sha256 for result, _ in replies] == [
        hash_images(subject.images) for subject in small_subjects
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_workers_use_the_precision_of_the_encoder_here(small_checkpoint, dtype):
    """Otherwise "auto" may differ between a login node and a worker with a GPU."""
    encoder = EncoderSpec(checkpoint=small_checkpoint, dtype=dtype).build()
    sent = EncoderSpec(checkpoint=small_checkpoint).for_workers(encoder)
    assert sent.build().precision == dtype


def test_paths_are_absolute_for_workers(small_checkpoint, tmp_path, monkeypatch):
    link = tmp_path / "encoder"
    link.symlink_to(small_checkpoint)
    monkeypatch.chdir(tmp_path)
    spec = EncoderSpec(checkpoint="encoder")
    sent = spec.for_workers(spec.build())
    monkeypatch.chdir("/")
    assert sent.build().n_features == 24


def test_a_folder_named_like_a_bundled_checkpoint_is_not_used(
    small_checkpoint, tmp_path, monkeypatch
):
    (tmp_path / "brainfound-tiny").symlink_to(small_checkpoint)
    monkeypatch.chdir(tmp_path)
    spec = EncoderSpec(checkpoint="brainfound-tiny")
    encoder = spec.build()
    sent = spec.for_workers(encoder).build()
    assert sent.checkpoint.fingerprint == encoder.checkpoint.fingerprint


def test_another_checkpoint_in_the_worker_is_refused(small_checkpoint):
    spec = EncoderSpec(checkpoint=small_checkpoint, fingerprint="f" * 64)
    with pytest.raises(CheckpointError, match="another checkpoint in this worker"):
        spec.build()


def test_errors_are_sent_with_their_traceback(small_checkpoint, small_subjects):
    spec = EncoderSpec(checkpoint=small_checkpoint)
    bad = [Subject("/a.nii", {"T1w": "/a.nii"}), small_subjects[0]]
    bad.append(
        Subject(
            small_subjects[1].participant_id, {"T1w": small_checkpoint + "/config.json"}
        )
    )
    replies = pickle.loads(pickle.dumps(encode_remotely(spec, bad)))
    first, good, last = _to_outcomes(bad, replies)
    assert good.error is None
    for outcome, name in ((first, "/a.nii"), (last, "config.json")):
        assert isinstance(outcome.error, VolumeError)
        assert name in str(outcome.error)
        assert "Traceback" in outcome.error.__notes__[0]


@pytest.mark.usefixtures("without_registration")
@pytest.mark.parametrize("form", ["path", "image", "mapping"])
def test_workers_need_no_file_of_the_atlas(
    checkpoint_path, subjects, tmp_path, monkeypatch, form
):
    preprocessor = Preprocessor(shape=(40, 56, 36), spacing=4.0, alignment="affine")
    labels = np.ones(preprocessor.shape, np.uint8)
    labels[:18] = 2
    image = nib.Nifti1Image(labels, preprocessor.geometry.affine)
    nib.save(image, tmp_path / "atlas.nii.gz")
    monkeypatch.chdir(tmp_path)
    lut = pd.DataFrame({"index": [1, 2], "name": ["right", "left"]})
    given = {"maps": "atlas.nii.gz", "lut": lut}
    spec = EncoderSpec(
        checkpoint=checkpoint_path,
        preprocessor=preprocessor,
        pooling="regions",
        labels_img={"path": "atlas.nii.gz", "image": image, "mapping": given}[form],
        batch_size=2,
    )
    encoder = spec.build()
    sent = pickle.dumps(spec.for_workers(encoder))
    (tmp_path / "atlas.nii.gz").unlink()
    replies = encode_remotely(pickle.loads(sent), subjects[:2])
    expected = [outcome.unwrap().vector for outcome in encoder.stream(subjects[:2])]
    np.testing.assert_array_equal([result.vector for result, _ in replies], expected)
    kept = _kept_encoder(pickle.loads(sent))
    assert kept is _kept_encoder(pickle.loads(sent))
    assert kept.region_names == encoder.region_names


def test_coregistration_is_added_to_the_preprocessing_of_the_checkpoint(
    small_checkpoint,
):
    plain = EncoderSpec(checkpoint=small_checkpoint).build().preprocessor
    spec = EncoderSpec(checkpoint=small_checkpoint, coregister=True)
    for built in (spec, spec.for_workers(spec.build())):
        assert built.build().preprocessor == replace(plain, coregister=True)


def test_recipes_of_authors_have_no_coregistration(small_checkpoint, tmp_path):
    checkpoint = Checkpoint.load(small_checkpoint)
    shape = tuple(checkpoint.config.preprocessing["shape"])
    recipe = InputRecipe(name="theirs", steps=(Resize(shape=shape),), shape=shape)
    config = replace(checkpoint.config, preprocessing=recipe.to_dict())
    folder = Checkpoint(config, checkpoint.state).save(tmp_path / "theirs")
    with pytest.raises(ConfigError, match="recipe of its authors"):
        EncoderSpec(checkpoint=folder, coregister=True).build()
