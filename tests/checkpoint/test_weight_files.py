import json
import os
import pickle
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from brainfeat.checkpoint.weight_files import download, named_tensors, read_foreign
from brainfeat.exceptions import CheckpointError, MissingDependencyError


@pytest.fixture
def state():
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4)}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "nest", [(), ("teacher",), ("model",), ("state_dict", "model")]
)
def test_saved_weights_are_found_where_scripts_put_them(nest, state, tmp_path):
    content = state
    for key in reversed(nest):
        content = {key: content, "epoch": 3, "student": {"c": torch.zeros(1)}}
    torch.save(content, tmp_path / "weights.pth")
    assert_equal(read_foreign(tmp_path / "weights.pth"), state)
    assert_equal(read_foreign(tmp_path), state)


def test_shards_are_joined(state, tmp_path):
    names = {name: f"model-{i}.safetensors" for i, name in enumerate(state)}
    for name, file in names.items():
        save_file({name: state[name]}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    assert_equal(read_foreign(tmp_path), state)
    index.write_text(json.dumps({"weight_map": names | {"c": "model-0.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"missing keys in the shards: \['c'\]"):
        read_foreign(tmp_path)
    index.write_text(json.dumps({"weight_map": {"b": "../model.safetensors"}}))
    with pytest.raises(CheckpointError, match="outside its folder"):
        read_foreign(tmp_path)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="no weight_map"):
        read_foreign(tmp_path)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("plain", [True, False])
def test_pickle_with_code_is_refused_and_not_run(plain, state, tmp_path):
    path, proof = tmp_path / "weights.pth", tmp_path / "proof"
    content = state | {"trap": Trap(str(proof))}
    if plain:
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"refused weights.pth"):
        read_foreign(path)
    assert not proof.exists()


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.bin", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 cut"])
def test_damaged_file_is_one_clear_error(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        read_foreign(tmp_path / name)


def test_missing_weights_are_named(tmp_path, state):
    with pytest.raises(CheckpointError, match=r"no weights file at .*nowhere"):
        read_foreign(tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match=r"expected one weights file.*got \[\]"):
        read_foreign(tmp_path)
    for name in ("a.pth", "b.pth"):
        torch.save(state, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"got \['a.pth', 'b.pth'\]"):
        read_foreign(tmp_path)


@pytest.mark.parametrize(
    "content", [[1], {}, {"model": 3}, {"a": torch.ones(1), "b": 2}]
)
def test_what_holds_no_named_tensors_is_refused(content):
    with pytest.raises(CheckpointError, match="tensors"):
        named_tensors(content)


@pytest.fixture
def hub(monkeypatch):
    calls = []

    def install(snapshot):
        def snapshot_download(repository, *, revision, allow_patterns):
            calls.append((repository, revision, tuple(allow_patterns)))
            return snapshot(len(calls))

        module = SimpleNamespace(snapshot_download=snapshot_download)
        monkeypatch.setitem(sys.modules, "huggingface_hub", module)
        return calls

    return install


def test_hub_folder_comes_at_its_revision(hub, state, tmp_path):
    save_file(state, tmp_path / "model.safetensors")
    calls = hub(lambda _: str(tmp_path))
    assert download("hf-hub:lab/brain.v1@2f1c") == tmp_path
    assert [call[:2] for call in calls] == [("lab/brain.v1", "2f1c")]


def test_pickles_are_fetched_only_where_there_is_nothing_better(hub, tmp_path):
    calls = hub(lambda _: str(tmp_path))
    download("hf-hub:lab/brain")
    assert [call[1] for call in calls] == [None, None]
    assert "*.bin" not in calls[0][2]
    assert "*.bin" in calls[1][2]


def test_hub_failure_is_one_line(hub):
    def fail(_):
        raise OSError("404: not found\nwith a long page")

    hub(fail)
    with pytest.raises(CheckpointError) as error:
        download("hf-hub:lab/brain")
    assert str(error.value) == (
        "hf-hub:lab/brain: cannot be downloaded: 404: not found"
    )


@pytest.mark.parametrize(
    "name", ["hf-hub:", "hf-hub:brain", "hf-hub:a/b/c", "hf-hub:a/b@"]
)
def test_malformed_hub_name_is_refused(name):
    with pytest.raises(CheckpointError, match="expected hf-hub:organisation/name"):
        download(name)


def test_missing_hub_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "brainfeat\[hub\]"'):
        download("hf-hub:lab/brain")
