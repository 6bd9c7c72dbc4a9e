"""Linear layers whose weights lie ready for the processor's matrix units."""

__all__ = ["PackedLinear", "pack_linear_layers"]

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

# Narrower layers are a small share of the time.
_MIN_FEATURES = 64


class PackedLinear(nn.Module):
    """A linear layer for inference in bfloat16 on a CPU.

    oneDNN multiplies blocks, and brings a weight into that order at each call. Here it
    is done once.

    Parameters
    ----------
    linear : nn.Linear
        Layer whose weights are copied; bfloat16, on the CPU, with bias.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        operations: Any = torch.ops.mkldnn
        self.out_features = linear.out_features
        self._multiply = operations._linear_pointwise  # noqa: SLF001  has no other name
        reorder = operations._reorder_linear_weight  # noqa: SLF001
        self._weight = reorder(linear.weight.detach())
        self._bias = linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Map each token.

        Parameters
        ----------
        x : bfloat16 Tensor of shape (..., in_features)
            Tokens.

        Returns
        -------
        bfloat16 Tensor of shape (..., out_features)
            As the layer that was packed.
        """
        if not x.numel():  # no foreground at all
            return x.new_empty(*x.shape[:-1], self.out_features)
        out: Tensor = self._multiply(x, self._weight, self._bias, "none", [], "")
        return out


def pack_linear_layers(network: nn.Module) -> None:
    """Exchange the wide linear layers of a network for packed ones, in place.

    Nothing is done where weights are not bfloat16 on the CPU, or where PyTorch or the
    processor cannot multiply them so.

    Parameters
    ----------
    network : nn.Module
        For inference only.
    """
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
    """Try it: the operations are private, and need what not every processor has."""
    layer = nn.Linear(_MIN_FEATURES, _MIN_FEATURES, dtype=torch.bfloat16)
    try:
        PackedLinear(layer)(torch.zeros(1, _MIN_FEATURES, dtype=torch.bfloat16))
    except (AttributeError, RuntimeError, TypeError):
        return False
    return True
