import numpy as np
import pytest
import torch

from brainfeat.exceptions import ConfigError
from brainfeat.models.device import (
    is_out_of_memory,
    resolve_batch_size,
    resolve_device,
    resolve_dtype,
    resolve_training_device,
)

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


def test_auto_device_is_cuda_if_available(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    for available, name in [(True, "cuda:1"), (False, "cpu")]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda a=available: a)
        assert resolve_device("auto") == torch.device(name)


@pytest.mark.parametrize("device", ["cpu", CPU])
def test_named_device_is_used(device):
    assert resolve_device(device) == CPU


@pytest.mark.parametrize("device", ["gpu", "cuda:77", 7.5, None, "meta?"])
def test_unavailable_device_is_rejected(device):
    with pytest.raises(ConfigError, match="device: expected 'auto' or an available"):
        resolve_device(device)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, False, "cuda:3"), (False, True, "mps"), (False, False, "cpu")],
)
def test_training_takes_the_fastest_device(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert resolve_training_device("auto") == torch.device(expected)
    assert resolve_training_device("meta") == torch.device("meta")
    with pytest.raises(ConfigError, match="available device, got 'warp'"):
        resolve_training_device("warp")


@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_bf16"])
def test_auto_dtype_is_bfloat16_on_cpus_that_multiply_it(monkeypatch, feature):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {feature: True})
    assert resolve_dtype("auto", CPU) == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    assert resolve_dtype("auto", CPU) == torch.float32
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert resolve_dtype("auto", CPU) == torch.float32


def test_auto_dtype_is_not_emulated_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert resolve_dtype("auto", CUDA) == torch.float32


def test_named_dtype_is_used():
    assert resolve_dtype("float32", CPU) == torch.float32
    assert resolve_dtype("bfloat16", CPU) == torch.bfloat16


@pytest.mark.parametrize("dtype", ["float16", torch.float16, None])
def test_unknown_dtype_is_rejected(dtype):
    with pytest.raises(ConfigError, match="dtype: expected one of"):
        resolve_dtype(dtype, CPU)


def test_auto_batch_size_is_one_subject_on_a_cpu():
    assert resolve_batch_size("auto", CPU, n_tokens=10) == 1


def test_auto_batch_size_fills_an_accelerator():
    assert resolve_batch_size("auto", CUDA, n_tokens=10) == 32
    assert resolve_batch_size("auto", CUDA, n_tokens=10_000) == 6
    assert resolve_batch_size("auto", CUDA, n_tokens=10**6) == 1


def test_integer_of_numpy_is_a_batch_size():
    assert resolve_batch_size(np.int64(3), CPU, n_tokens=10) == 3


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, "many", None, True])
def test_invalid_batch_size_is_rejected(batch_size):
    with pytest.raises(ConfigError, match="batch_size: expected 'auto'"):
        resolve_batch_size(batch_size, CPU, n_tokens=10)


def test_lack_of_memory_is_recognised():
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes differ"))
