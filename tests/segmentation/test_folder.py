import json
import shutil

import numpy as np
import pytest
import torch

from brainfeat import SegmentationEstimator
from brainfeat.exceptions import CheckpointError
from brainfeat.models.decoder import DecoderConfig, SegmentationDecoder
from brainfeat.segmentation.folder import read_folder, write_folder


class Fitted:
    """The attributes of a fitted estimator."""

    classes_ = np.array([0, -5, 300])
    modalities_ = ("T1w", "FLAIR")
    label_grid_ = "FLAIR"
    held_out_score_ = 0.75

    def __init__(self, checkpoint):
        self.checkpoint_fingerprint_ = checkpoint.fingerprint
        config = DecoderConfig(n_classes=3, n_modalities=2, embed_dim=24, n_depths=2)
        self.decoder_ = SegmentationDecoder(config)
        self.loss_curve_, self.validation_scores_ = [1.5, 0.75], []
        self.prior_ = torch.rand(3, 4, 5, 6)
        self.names_ = {0: "background", -5: "core", 300: "class_300"}
        self.modality_scores_ = {"T1w+FLAIR": 0.75, "FLAIR": float("nan")}
        self.held_out_scores_ = {"core": 0.75, "class_300": float("nan")}

    def get_params(self, deep=True):
        parameters = SegmentationEstimator().get_params(deep)
        chosen = {"n_steps": np.int64(7), "freeze_encoder": False, "verbose": 1}
        return parameters | chosen | {"random_state": np.random.RandomState(0)}


@pytest.fixture
def folder(checkpoint, tmp_path):
    return write_folder(tmp_path / "deep" / "model", Fitted(checkpoint), checkpoint)


def test_model_survives_a_round_trip(checkpoint, tmp_path):
    fitted = Fitted(checkpoint)
    folder = write_folder(tmp_path / "model", fitted, checkpoint)
    content = read_folder(folder)
    assert content.parameters == {
        "checkpoint": str(folder / "encoder"),
        "n_steps": 7,
        "learning_rate": 1e-2,
        "freeze_encoder": False,
        "batch_size": "auto",
        "random_state": None,
        "modality": None,
        "where": "brain",
        "grid": "label",
        "n_folds": 3,
        "validation_fraction": 0.1,
    }
    for name in ("names_", "label_grid_", "held_out_score_"):
        assert content.fitted[name] == getattr(fitted, name)
    for name in ("modality_scores_", "held_out_scores_"):
        np.testing.assert_equal(content.fitted[name], getattr(fitted, name))
    assert content.fitted["classes_"].tolist() == [0, -5, 300]
    assert content.fitted["modalities_"] == ("T1w", "FLAIR")
    assert content.fitted["loss_curve_"] == [1.5, 0.75]
    torch.testing.assert_close(content.fitted["prior_"], fitted.prior_)
    state = content.fitted["decoder_"].state_dict()
    for name, value in fitted.decoder_.state_dict().items():
        torch.testing.assert_close(state[name], value)


def test_folder_of_the_first_version_is_read(folder):
    path = folder / "segmentation.json"
    content = json.loads(path.read_text())
    for key in ("parameters", "names", "modality_scores", "label_grid"):
        del content[key]
    path.write_text(json.dumps(content))
    read = read_folder(folder)
    assert read.parameters == {
        "checkpoint": str(folder / "encoder"),
        "modality": None,
        "where": "head",
        "grid": "first",
    }
    assert read.fitted["names_"][300] == "class_300"
    assert read.fitted["modality_scores_"] == {}


def test_folder_without_model_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"segment fit.*segmentation\.json"):
        read_folder(tmp_path)


@pytest.mark.parametrize("name", ["decoder.safetensors", "segmentation.json"])
def test_damaged_file_is_refused(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=str(folder)):
        read_folder(folder)
    path.unlink()
    with pytest.raises(CheckpointError) as caught:
        read_folder(folder)
    assert name in str(caught.value)
    assert "Errno" not in str(caught.value)


def test_weights_of_another_decoder_are_refused(checkpoint, folder, tmp_path):
    other = write_folder(tmp_path / "other", Fitted(checkpoint), checkpoint)
    weights = "decoder.safetensors"
    (folder / weights).write_bytes((other / weights).read_bytes())
    with pytest.raises(CheckpointError, match=r"decoder\.safetensors: the weights"):
        read_folder(folder)


def test_missing_or_replaced_encoder_is_refused(folder, make_checkpoint):
    make_checkpoint(seed=7).save(folder / "encoder")
    with pytest.raises(CheckpointError, match="encoder: expected the encoder that"):
        read_folder(folder)
    shutil.rmtree(folder / "encoder")
    with pytest.raises(CheckpointError, match="encoder: no such folder"):
        read_folder(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "other-2", "another version"),
        ("decoder", {"n_classes": 3}, "damaged.*missing keys"),
    ],
)
def test_foreign_settings_are_refused(folder, key, value, message):
    path = folder / "segmentation.json"
    content = json.loads(path.read_text()) | {key: value}
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        read_folder(folder)
