import json
import os
import pickle
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from brainfeat.checkpoint.weight_files import (
    named_tensors,
    read_tensors,
)
from brainfeat.exceptions import CheckpointError


@pytest.fixture
def state():
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4)}


def assert_equal(tensors, expected):
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "nest",
    [
        *((), ("teacher",), ("model",), ("state_dict", "model")),
        *(("model_state_dict",), ("state_dict",), ("module",)),
    ],
)
def test_nested_weights_are_read(nest, state, tmp_path):
    content = state
    for key in reversed(nest):
        content = {key: content, "epoch": 3, "student": {"c": torch.zeros(1)}}
    torch.save(content, tmp_path / "weights.pth")
    assert_equal(read_tensors(tmp_path / "weights.pth"), state)
    assert_equal(read_tensors(tmp_path), state)


def test_shards_are_joined(state, tmp_path):
    names = {name: f"model-{i}.safetensors" for i, name in enumerate(state)}
    for name, file in names.items():
        save_file({name: state[name]}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    assert_equal(read_tensors(tmp_path), state)
    index.write_text(json.dumps({"weight_map": names | {"c": "model-0.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"missing keys in the shards: \['c'\]"):
        read_tensors(tmp_path)
    index.write_text(json.dumps({"weight_map": {"b": "../model.safetensors"}}))
    with pytest.raises(CheckpointError, match="expected files in its folder"):
        read_tensors(tmp_path)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="expected an object weight_map"):
        read_tensors(tmp_path)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("plain", [True, False])
def test_pickle_with_code_is_rejected_and_not_run(plain, state, tmp_path):
    path, proof = tmp_path / "weights.pth", tmp_path / "proof"
    content = state | {"trap": Trap(str(proof))}
    if plain:
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"weights.pth: expected tensors alone"):
        read_tensors(path)
    assert not proof.exists()


class Foreign:
    """A class of another library; unpickled, it would make a folder."""

    proof = None

    def __init__(self):
        self.options = {"epochs": 3}

    def __setstate__(self, state):
        Path(self.proof).mkdir()


class AttributeDict(dict):
    """As Lightning's."""


@pytest.mark.parametrize("name", ["last.ckpt", "last.pth"])
def test_objects_of_foreign_classes_are_inert(name, state, tmp_path, monkeypatch):
    monkeypatch.setattr(Foreign, "proof", tmp_path / "proof")
    content = {
        "state_dict": AttributeDict(state),
        "hyper_parameters": AttributeDict(path=Path("a"), options=Foreign()),
        "callbacks": {"early": Foreign(), "layer": torch.nn.Linear(2, 3)},
        "loops": [Foreign(), defaultdict(list, a=[np.float64(3.0)])],
    }
    torch.save(content, tmp_path / name)
    allowed = torch.serialization.get_safe_globals()
    assert_equal(read_tensors(tmp_path / name), state)
    assert_equal(read_tensors(tmp_path), state)
    assert not (tmp_path / "proof").exists()
    assert {*torch.serialization.get_safe_globals()} == {*allowed}


def test_whole_model_is_refused_with_the_mend(tmp_path):
    path = tmp_path / "weights.pth"
    for content in (torch.nn.Linear(2, 3), {"model": torch.nn.Linear(2, 3)}):
        torch.save(content, path)
        with pytest.raises(
            CheckpointError, match=r"tensors alone, got .*Linear"
        ) as got:
            read_tensors(path)
        assert "torch.save(model.state_dict(), path)" in str(got.value)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"/annex/objects/MD5E-s1--0a.pth\n", "datalad get"),
        (b"<!DOCTYPE html><html>", "a web page; the download failed"),
    ],
)
def test_what_lies_in_place_of_weights_is_named(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}: expected weights, .*{message}"):
        read_tensors(tmp_path / name)


def test_ten_names_are_listed_at_most():
    names = {f"{index:02}": index for index in range(57)}
    with pytest.raises(CheckpointError, match=r"entries: 00, .*, 09 and 47 more\."):
        named_tensors(names)


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.bin", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 cut"])
def test_damaged_file_is_reported(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        read_tensors(tmp_path / name)


def test_missing_weights_are_reported(tmp_path, state):
    with pytest.raises(CheckpointError, match=r"nowhere.*expected a weights file"):
        read_tensors(tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match=r"expected one weights file.*got \[\]"):
        read_tensors(tmp_path)
    for name in ("a.pth", "b.pth"):
        torch.save(state, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"got \['a.pth', 'b.pth'\]"):
        read_tensors(tmp_path)


@pytest.mark.parametrize(
    "content", [[1], {}, {"model": 3}, {"a": torch.ones(1), "b": 2}]
)
def test_content_without_named_tensors_is_rejected(content):
    with pytest.raises(CheckpointError, match="tensors"):
        named_tensors(content)
