import json
import os
import pickle
import subprocess
import tarfile
import zipfile
from collections import OrderedDict, defaultdict, deque
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from brainfeat.checkpoint import torch_files
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


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.ckpt", "a.bin", "a.pth.tar"])
@pytest.mark.parametrize("is_old", [True, False])
def test_torch_files_are_read_under_any_name(name, is_old, state, tmp_path):
    options = {"_use_new_zipfile_serialization": not is_old}
    torch.save({"model_state_dict": state}, tmp_path / name, **options)
    assert_equal(read_tensors(tmp_path / name), state)
    assert_equal(read_tensors(tmp_path), state)


def test_content_counts_and_not_the_suffix(state, tmp_path):
    save_file(state, tmp_path / "a.pth")
    torch.save(state, tmp_path / "b.safetensors")
    for name in ("a.pth", "b.safetensors"):
        assert_equal(read_tensors(tmp_path / name), state)


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


class ListConfig(list):
    """As OmegaConf's."""


def lightning(state, *more):
    """Return what Lightning saves, with objects of many classes."""
    return {
        "state_dict": AttributeDict(state),
        "hyper_parameters": AttributeDict(path=Path("a"), options=Foreign()),
        "callbacks": {"early": Foreign(), "layer": torch.nn.Linear(2, 3)},
        "optimizer_states": [ListConfig([0.9, 0.99]), deque([1, 2])],
        "loops": [Foreign(), defaultdict(list, a=[np.float64(3.0)]), *more],
    }


@pytest.mark.parametrize("is_old", [True, False])
@pytest.mark.parametrize("name", ["last.ckpt", "last.pth"])
def test_objects_of_foreign_classes_are_inert(
    name, is_old, state, tmp_path, monkeypatch
):
    monkeypatch.setattr(Foreign, "proof", tmp_path / "proof")
    options = {"_use_new_zipfile_serialization": not is_old}
    torch.save(lightning(state), tmp_path / name, **options)
    allowed = torch.serialization.get_safe_globals()
    assert_equal(read_tensors(tmp_path / name), state)
    assert_equal(read_tensors(tmp_path), state)
    assert not (tmp_path / "proof").exists()
    assert {*torch.serialization.get_safe_globals()} == {*allowed}


class Call:
    """Unpickled, it calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __call__(self):
        """Only what can be called may stand first in a pickled call."""

    def __reduce__(self):
        return self.call


def _write_proof(path):
    Path(path).write_text("ran")


_CALLS = {
    "os.system": lambda proof: Call(os.system, f"touch {proof}"),
    "subprocess": lambda proof: Call(subprocess.check_call, ["touch", str(proof)]),
    "eval": lambda proof: Call(eval, f"__import__('os').mkdir({str(proof)!r})"),
    "exec": lambda proof: Call(exec, f"__import__('os').mkdir({str(proof)!r})"),
    "mkdir": lambda proof: Call(os.mkdir, str(proof)),
    "method": lambda proof: Call(Path.mkdir, Path(proof)),
    "function": lambda proof: Call(_write_proof, str(proof)),
    "attribute": lambda proof: Call(Call(getattr, Path(proof), "mkdir")),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("is_old", [True, False])
@pytest.mark.parametrize("call", _CALLS)
def test_nothing_in_a_lightning_file_runs(
    call, is_old, protocol, state, tmp_path, monkeypatch
):
    proof, path = tmp_path / "proof", tmp_path / "last.ckpt"
    monkeypatch.setattr(Foreign, "proof", proof)
    trap = _CALLS[call](proof)
    torch.save(
        lightning(state, trap),
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=not is_old,
    )
    assert_equal(read_tensors(path), state)
    assert not proof.exists()
    pickle.loads(pickle.dumps(trap, protocol))  # the trap works
    assert proof.exists()


def test_pickle_cannot_change_what_stays_in_memory(tmp_path):
    # Opcode BUILD sets attributes of the object before it, also of classes.
    names = ("torch._utils\n_rebuild_tensor_v2", "collections\nOrderedDict", "a\nB")
    for name in names:
        build = b"\x80\x02c" + name.encode() + b"\nN}X\x01\x00\x00\x00xK\x01s\x86b."
        path = tmp_path / "a.pth"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", build)
        with pytest.raises(CheckpointError, match=r"^a\.pth: "):
            read_tensors(path)
    objects = (OrderedDict, torch_files._Inert, torch_files._Unpickler._build_tensor)
    assert not any(hasattr(thing, "x") for thing in objects)


@pytest.mark.parametrize("is_old", [True, False])
def test_tensors_beside_foreign_objects_are_those_that_torch_reads(is_old, tmp_path):
    base = torch.arange(60.0)
    kinds = ("bool", "uint8", "int16", "int64", "float16", "bfloat16", "float64")
    state = {
        **{kind: (base > 30).to(getattr(torch, kind)) for kind in kinds},
        "strided": base.reshape(4, 15)[1:, ::3].t(),
        "shared": base[7:11],
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 5),
        "parameter": torch.nn.Parameter(base[:6].reshape(2, 3)),
    }
    options = {"_use_new_zipfile_serialization": not is_old}
    torch.save({"state_dict": state, "foreign": Path("a")}, tmp_path / "a", **options)
    torch.save(state, tmp_path / "b", **options)
    tensors = read_tensors(tmp_path / "a")
    assert_equal(tensors, torch.load(tmp_path / "b", weights_only=True))
    assert tensors["float16"].dtype == torch.float16


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


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
@pytest.mark.parametrize("fraction", [0.02, 0.5, 0.97])
def test_truncated_file_is_one_line_with_the_mend(kind, fraction, tmp_path):
    state = {f"blocks.{i}.weight": torch.randn(31 + i, 17) for i in range(29)}
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * fraction)])
    with pytest.raises(CheckpointError) as error:
        read_tensors(path)
    message = str(error.value)
    assert message.startswith(f"{path.name}: expected ")
    assert "ends too early; the download stopped, fetch it again" in message
    assert "\n" not in message


def test_archives_of_others_are_named_with_the_mend(state, tmp_path):
    torch.save(state, tmp_path / "inner.pth")
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.write(tmp_path / "inner.pth", "weights/inner.pth")
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        archive.add(tmp_path / "inner.pth", "inner.pth")
    with zipfile.ZipFile(tmp_path / "c.pt", "w") as archive:
        for name in ("c/data.pkl", "c/code/__torch__.py", "c/constants.pkl"):
            archive.writestr(name, b"")
    # A name that begins as a pickle does hides nothing.
    with tarfile.open(tmp_path / "i.pt", "w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(tmp_path / "inner.pth", "\x80\x02pickle")
    (tmp_path / "d.bin").write_bytes(b"\x1f\x8b\x08 and more")
    (tmp_path / "e.pth").write_bytes(b"\x89HDF\r\n\x1a\n and more")
    np.savez(tmp_path / "f.npz", a=np.ones(3))
    (tmp_path / "g.pth").write_bytes(b"\xff\xd8\xff\xe0 a picture")
    (tmp_path / "h.safetensors").write_bytes(b"some notes on weights")
    for name, reason in {
        "a.pth": "a zip archive of weights/inner.pth; unpack it and give the weights",
        "b.tar": "a tar archive; unpack it",
        "i.pt": "a tar archive; unpack it",
        "c.pt": "a TorchScript program; save the weights: torch.save(model.state_dict",
        "d.bin": "a file compressed with gzip; unpack it",
        "e.pth": "an HDF5 file, as Keras writes it",
        "f.npz": "a zip archive of a.npy; unpack it",
        "g.pth": "a file that neither torch.save nor safetensors wrote",
        "h.safetensors": "a file that neither torch.save nor safetensors wrote",
    }.items():
        with pytest.raises(CheckpointError) as error:
            read_tensors(tmp_path / name)
        assert str(error.value).startswith(f"{name}: expected weights, got {reason}")
        assert "\n" not in str(error.value)


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
