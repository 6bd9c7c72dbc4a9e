import json
import os
import pickle

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
    "nest", [(), ("teacher",), ("model",), ("state_dict", "model")]
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
