"""The trained part of an encoder: low-rank updates, its last blocks, or all of it.

References
----------
.. [1] Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.
"""

__all__ = ["Adapt", "LowRankLinear", "adapt_encoder", "merge_updates"]

import copy
import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from brainfeat.models.feed_forward import Mlp, SwiGLU
from brainfeat.models.layers import Attention
from brainfeat.models.protocol import Encoder

Adapt = Literal["lora", "last", "all"]

_DOWN, _UP = "lora_down", "lora_up"


class LowRankLinear(nn.Module):
    """A frozen linear layer, and a trained update of low rank [1]_.

    The update is zero at first: `lora_down` is drawn, `lora_up` is zero.
    """

    def __init__(self, linear: nn.Linear, rank: int, generator: Generator) -> None:
        super().__init__()
        self.linear = linear
        weight = linear.weight
        rank = min(rank, *weight.shape)
        down = torch.randn(rank, weight.shape[1], generator=generator)
        down /= math.sqrt(weight.shape[1])
        self.lora_down = nn.Parameter(down.to(weight.device))
        self.lora_up = nn.Parameter(weight.new_zeros(weight.shape[0], rank))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (..., in_features) as the sum of both."""
        update = F.linear(F.linear(x, self.lora_down), self.lora_up)
        out: Tensor = self.linear(x) + update
        return out


def adapt_encoder(
    encoder: Encoder, adapt: Adapt, *, first_block: int, rank: int, seed: int
) -> Encoder:
    """Copy a frozen encoder, and make its part from a block on trainable.

    Parameters that are not trained are shared with the original.
    """
    tuned = [] if adapt == "lora" else _tuned_names(encoder, adapt, first_block)
    parameters = dict(encoder.named_parameters())
    memo = {id(p): p for name, p in parameters.items() if name not in tuned}
    adapted = copy.deepcopy(encoder, memo)
    for name in tuned:
        adapted.get_parameter(name).requires_grad = True
    if adapt == "lora":
        generator = Generator().manual_seed(seed)
        for block in list(_blocks(adapted))[first_block:]:
            _add_updates(block, rank, generator)
    return adapted


def merge_updates(
    state: Mapping[str, Tensor], updates: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return an encoder's weights with low-rank updates added, or tensors replaced."""
    merged = dict(state)
    for name, value in updates.items():
        layer, _, kind = name.rpartition(".")
        if kind == _UP:
            weight = f"{layer}.weight"
            merged[weight] = state[weight] + value @ updates[f"{layer}.{_DOWN}"]
        elif kind != _DOWN:
            merged[name] = value
    return merged


def _blocks(encoder: Encoder) -> nn.ModuleList:
    blocks: nn.ModuleList = encoder.get_submodule("blocks")  # type: ignore[assignment]
    return blocks


def _tuned_names(encoder: Encoder, adapt: Adapt, first_block: int) -> list[str]:
    """List the parameters of the last blocks and the final norm, or all."""
    names = [name for name, _ in encoder.named_parameters()]
    if adapt == "all":
        return names
    depth = len(_blocks(encoder))
    prefixes = *(f"blocks.{i}." for i in range(first_block, depth)), "norm."
    return [name for name in names if name.startswith(prefixes)]


def _add_updates(block: nn.Module, rank: int, generator: Generator) -> None:
    """Replace the linear layers of attention and feed-forward branches."""
    layers = [
        (module, name, layer)
        for module in block.modules()
        if isinstance(module, Attention | Mlp | SwiGLU)
        for name, layer in module.named_children()
        if isinstance(layer, nn.Linear) and name != "gate"  # which only scales heads
    ]
    for module, name, layer in layers:
        setattr(module, name, LowRankLinear(layer, rank, generator))
