import json
import os
import shutil

import numpy as np
import pytest
import torch

from brainfeat.checkpoint import sharing as sharing_module
from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.sharing import (
    check_fingerprint,
    shared_checkpoint,
    shared_encoder,
)
from brainfeat.exceptions import CheckpointError, ConfigError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def empty_caches(monkeypatch):
    monkeypatch.setattr(sharing_module, "_CHECKPOINTS", sharing_module._LRUCache())
    monkeypatch.setattr(sharing_module, "_ENCODERS", sharing_module._LRUCache())


@pytest.fixture
def folder(checkpoint_path, tmp_path):
    return shutil.copytree(checkpoint_path, tmp_path / "checkpoint")


def shifted(checkpoint, shift):
    state = {name: value + shift for name, value in checkpoint.state.items()}
    return Checkpoint(checkpoint.config, state)


def test_checkpoint_is_loaded_once(folder):
    first = shared_checkpoint(folder)
    assert shared_checkpoint(str(folder)) is first
    assert shared_checkpoint(folder / ".." / folder.name) is first


def test_dangling_link_beside_a_checkpoint_is_ignored(folder):
    (folder / ".#README.md").symlink_to("someone@host.1234")  # as Emacs locks a file
    assert shared_checkpoint(folder).fingerprint


def test_changed_checkpoint_is_loaded_again(folder, checkpoint):
    first = shared_checkpoint(folder)
    shifted(checkpoint, 1.0).save(folder)
    second = shared_checkpoint(folder)
    assert second.fingerprint != first.fingerprint


def test_damage_after_loading_is_detected(folder):
    shared_checkpoint(folder)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    before = weights.stat()
    weights.write_bytes(content)
    # As a tool may do that keeps dates: the next tick of the clock is enough.
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(CheckpointError, match="SHA-256"):
        shared_checkpoint(folder)


def test_missing_checkpoint_is_reported_although_it_was_loaded(folder):
    shared_checkpoint(folder)
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match="unknown checkpoint"):
        shared_checkpoint(folder)


def test_encoder_is_built_once(checkpoint):
    first = shared_encoder(checkpoint, CPU)
    again = Checkpoint(checkpoint.config, checkpoint.state)
    assert shared_encoder(again, CPU) is first
    assert not first.training


def test_encoder_has_the_weights_of_its_checkpoint(checkpoint):
    for shift in (0.0, 1.0):
        one = shifted(checkpoint, shift)
        bias = shared_encoder(one, CPU).norm.bias.detach().numpy()
        np.testing.assert_array_equal(bias, one.state["norm.bias"].numpy())


def test_each_precision_has_its_own_encoder(checkpoint):
    half = shared_encoder(checkpoint, CPU, torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert shared_encoder(checkpoint, CPU).norm.bias.dtype == torch.float32


def test_the_two_used_last_are_kept(checkpoint):
    first, second, third = (shifted(checkpoint, shift) for shift in (0.0, 1.0, 2.0))
    kept = [shared_encoder(one, CPU) for one in (first, second)]
    assert shared_encoder(first, CPU) is kept[0]
    shared_encoder(third, CPU)
    assert shared_encoder(first, CPU) is kept[0]
    assert shared_encoder(second, CPU) is not kept[1]


def test_encoder_built_in_inference_mode_gives_gradients(checkpoint):
    with torch.inference_mode():
        encoder = shared_encoder(checkpoint, torch.device("cpu"), torch.float32)
    assert not any(parameter.is_inference() for parameter in encoder.parameters())


def test_invalid_preprocessing_is_reported_with_the_folder(folder):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["preprocessing"]["spacing"] = "fine"
    path.write_text(json.dumps(content))
    with pytest.raises(
        CheckpointError, match=r"spacing: expected .*got 'fine'"
    ) as error:
        shared_checkpoint(folder)
    assert str(error.value).startswith(f"{folder}: ")


def test_a_checkpoint_has_a_name_or_a_folder():
    with pytest.raises(ConfigError, match="expected a name or a folder, got ndarray"):
        shared_checkpoint(np.zeros(3))


def test_other_weights_are_refused_with_both_fingerprints():
    check_fingerprint("mine", "a" * 64, "a" * 64)
    with pytest.raises(CheckpointError, match=r"mine: .*\(a{12}\), got others \(b{12}"):
        check_fingerprint("mine", "a" * 64, "b" * 64)
