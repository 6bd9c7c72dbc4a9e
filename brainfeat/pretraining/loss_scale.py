"""Gradients in float16, whose small values would round to zero."""

__all__ = ["LossScale"]

import math

import torch
from torch import Tensor

from brainfeat.exceptions import TrainingError

_START, _SMALLEST, _LARGEST = 2.0**12, 2.0**-3, 2.0**24
_GROWS_AFTER = 2000  # steps without overflow


class LossScale:
    """Multiply the loss by a power of two, as large as gradients bear [1]_.

    A step whose gradient overflows is left out, and halves the scale. The norm of the
    whole gradient decides, which is the same in all ranks; torch's own scaler does not
    know of the ranks of sharded weights. Without `enabled` the scale is 1.

    References
    ----------
    .. [1] Micikevicius et al., "Mixed precision training", ICLR 2018.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.value = _START if enabled else 1.0
        self.n_good = 0  # steps since the last change

    def scale(self, loss: Tensor) -> Tensor:
        """Return the scaled loss."""
        return loss * self.value if self.enabled else loss

    def unscale(self, gradients: list[Tensor]) -> None:
        """Divide gradients by the scale, in place."""
        if self.enabled and gradients:
            torch._foreach_mul_(gradients, 1.0 / self.value)

    def accepts(self, norm: float, step: int) -> bool:
        """Return whether a step with this norm is taken, and change the scale."""
        if not self.enabled:
            return True
        if math.isfinite(norm):
            self.n_good += 1
            if self.n_good >= _GROWS_AFTER and self.value < _LARGEST:
                self.value, self.n_good = 2.0 * self.value, 0
            return True
        self.value, self.n_good = self.value / 2.0, 0
        if self.value < _SMALLEST:
            raise TrainingError(
                f"step {step}: gradients overflow in float16 whatever their scale. Use "
                "precision='float32', which --resume takes too, or a lower "
                "learning_rate in a new run."
            )
        return False
