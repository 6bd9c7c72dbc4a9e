"""From released files to checkpoint folders, by the command."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.known import KNOWN_ENCODERS
from brainfeat.cli.app import app
from brainfeat.preprocessing.settings import preprocessing_from_dict

PEERS = Path(__file__).with_name("peers") / "keys"


def empty_state(name):
    """Return tensors of the names and shapes in a list."""
    lines = (PEERS / f"{name}.tsv").read_text().splitlines()
    keys = [line.split("\t") for line in lines]
    shapes = {key: [int(n) for n in shape.split("x") if n] for key, shape, _ in keys}
    return {key: torch.ones(shape) for key, shape in shapes.items()}


class Hyperparameters:
    """Of a library that is not installed where the file is read."""

    def __setstate__(self, state):
        raise AssertionError("it ran")


def _as_lightning(state):
    return {"state_dict": state, "hyper_parameters": Hyperparameters(), "epoch": 3}


CASES = {
    "brainiac": ("brainiac_small", "last.ckpt", _as_lightning),
    "3dino": ("3dino_small", "weights.pth", lambda state: {"teacher": state}),
    "bm-mae": ("bmmae_small", "weights.bin", lambda state: state),
    "neurovfm": ("neurovfm_small", "weights.pt", lambda state: {"model": state}),
    "neuro-jepa": ("neurojepa_small", "weights.pth", lambda state: state),
    "neuro-simclr": (
        "neuro_simclr_full",
        "weights.tar",
        lambda state: {"model_state_dict": state},
    ),
    "anatcl": ("anatcl_full", "fold0.pth", lambda state: {"model": state}),
}


RESNETS = ("neuro-simclr", "anatcl")  # 130 MB each


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in RESNETS))
        for name in CASES
    ],
)
def test_released_file_becomes_a_folder_that_is_the_same_encoder(name, tmp_path):
    keys, file, nest = CASES[name]
    old = {"_use_new_zipfile_serialization": file.endswith(".tar")}
    torch.save(nest(empty_state(keys)), tmp_path / file, **old)
    folder = tmp_path / "folder"
    arguments = ["convert", tmp_path / file, "-o", folder, "--as", name]
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    loaded = Checkpoint.load(folder)
    assert loaded.fingerprint == Checkpoint.load(tmp_path / file).fingerprint
    known, config = KNOWN_ENCODERS[name], loaded.config
    assert (config.origin.name, config.origin.file) == (name, file)
    assert config.origin.licence == str(known.licence)
    assert config.pooling == "default"
    assert preprocessing_from_dict(config.preprocessing).to_dict()["name"] == name
    card = (folder / "README.md").read_text()
    for text in (str(known.licence), known.page, known.prepared, *known.caveats):
        assert text in card
