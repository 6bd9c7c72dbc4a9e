import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from brainfeat.models.packed_linear import (
    PackedLinear,
    _can_multiply,
    pack_linear_layers,
)

needs_onednn = pytest.mark.skipif(
    not _can_multiply(),
    reason="PyTorch or the processor cannot multiply packed weights",
)


def make_network(*size):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(*size)).eval()


@needs_onednn
@pytest.mark.parametrize("n_tokens", [1, 131, 640])
@pytest.mark.parametrize("size", [(64, 96), (192, 576), (192, 768), (768, 192)])
def test_packed_layer_equals_the_layer(n_tokens, size):
    network = make_network(*size)
    half = copy.deepcopy(network).to(torch.bfloat16)
    packed = copy.deepcopy(half)
    pack_linear_layers(packed)
    assert isinstance(packed[0], PackedLinear)
    x = torch.randn(2, n_tokens, size[0])
    with torch.inference_mode():
        exact = network(x)
        for one in (half, packed):
            output = one(x.to(torch.bfloat16))
            assert output.dtype == torch.bfloat16
            assert (output - exact).norm() / exact.norm() < 0.01


@needs_onednn
def test_empty_input_gives_empty_output():
    network = make_network(64, 96).to(torch.bfloat16)
    pack_linear_layers(network)
    assert network(torch.zeros(0, 64, dtype=torch.bfloat16)).shape == (0, 96)


def test_narrow_and_float32_layers_are_kept():
    precise, narrow = make_network(64, 96), make_network(16, 96).to(torch.bfloat16)
    for network in (precise, narrow):
        pack_linear_layers(network)
        assert isinstance(network[0], nn.Linear)


def test_layer_without_bias_is_kept():
    network = nn.Sequential(nn.Linear(64, 64, bias=False, dtype=torch.bfloat16))
    pack_linear_layers(network)
    assert isinstance(network[0], nn.Linear)


@pytest.mark.slow
def test_layers_are_kept_where_the_operations_are_missing():
    script = (
        "import torch; from torch import nn; "
        "from brainfeat.models.packed_linear import pack_linear_layers; "
        "network = nn.Sequential(nn.Linear(64, 64, dtype=torch.bfloat16)); "
        "pack_linear_layers(network); "
        "print(network(torch.ones(2, 64, dtype=torch.bfloat16)).shape)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "torch.Size([2, 64])"
