"""Linear layers with weights in the order of the processor's matrix units."""

__all__ = ["PackedLinear", "pack_linear_layers"]

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

# Narrower layers take a small fraction of the time.
_MIN_FEATURES = 64


class PackedLinear(nn.Module):
    """A linear layer with bias, for inference in bfloat16 on a CPU."""

    # oneDNN multiplies blocks, and reorders a weight at each call; here this is done
    # once.
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        operations: Any = torch.ops.mkldnn
        self.out_features = linear.out_features
        self._multiply = operations._linear_pointwise  # noqa: SLF001  no public name
        reorder = operations._reorder_linear_weight  # noqa: SLF001  no public name
        self._weight = reorder(linear.weight.detach())
        self._bias = linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Map bfloat16 tokens as the original layer does."""
        if not x.numel():  # no foreground at all
            return x.new_empty(*x.shape[:-1], self.out_features)
        out: Tensor = self._multiply(x, self._weight, self._bias, "none", [], "")
        return out


def pack_linear_layers(network: nn.Module) -> None:
    """Replace wide bfloat16 linear layers of a network on a CPU, where supported."""
    layers = [
        (module, name, layer)
        for module in network.modules()
        for name, layer in module.named_children()
        if isinstance(layer, nn.Linear) and _is_packable(layer)
    ]
    if not layers or not _can_multiply():
        return
    for module, name, layer in layers:
        setattr(module, name, PackedLinear(layer))


def _is_packable(layer: nn.Linear) -> bool:
    weight = layer.weight
    return (
        weight.dtype == torch.bfloat16
        and weight.device.type == "cpu"
        and layer.bias is not None
        and min(layer.in_features, layer.out_features) >= _MIN_FEATURES
    )


@cache
def _can_multiply() -> bool:
    """Try the operations, which are private and need certain processors."""
    layer = nn.Linear(_MIN_FEATURES, _MIN_FEATURES, dtype=torch.bfloat16)
    try:
        PackedLinear(layer)(torch.zeros(1, _MIN_FEATURES, dtype=torch.bfloat16))
    except (AttributeError, RuntimeError, TypeError):
        return False
    return True
