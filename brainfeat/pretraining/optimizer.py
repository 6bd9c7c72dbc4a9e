"""AdamW, or Muon beside it, and values that change with the step.

References
----------
.. [1] Bao et al., "BEiT: BERT pre-training of image transformers" (layer decay),
   arXiv 2106.08254.
"""

__all__ = [
    "MuonWithAdamW",
    "build_optimizer",
    "cosine",
    "linear_warmup",
    "set_schedule",
    "warmup_cosine",
]

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from brainfeat.exceptions import ConfigError
from brainfeat.pretraining.config import PretrainingConfig

_BLOCK = re.compile(r"encoder\.(?:blocks|slab_mixing)\.(\d+)\.")
_MATRIX = re.compile(r"encoder\.blocks\.\d+\..*weight$")
_NO_DECAY = re.compile(r"\.bias$|norm|gamma|_embed$|token")


class MuonWithAdamW(Optimizer):
    """Muon for the matrices and AdamW for the other parameters, as one optimizer."""

    def __init__(self, muon: Optimizer, adamw: torch.optim.AdamW) -> None:
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self._parts = (muon, adamw)
        for part, start in ((muon, 0), (adamw, len(muon.param_groups))):
            # Both parts share groups and state with this object.
            stop = start + len(part.param_groups)
            part.param_groups = self.param_groups[start:stop]
            part.state = self.state

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step of both; return the result of the closure."""
        loss = None if closure is None else closure()
        for part in self._parts:
            part.step()
        return loss


def build_optimizer(network: nn.Module, config: PretrainingConfig) -> Optimizer:
    """Group the parameters of an unwrapped `HeadedEncoder` for `set_schedule`.

    Groups carry ``lr_factor``, ``decays`` and ``is_last_layer``. Raises ConfigError
    if torch is too old for Muon.
    """
    groups: dict[tuple[float, bool, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            factor = _lr_factor(name, config)
            by_muon = config.optimizer == "muon" and bool(_MATRIX.match(name))
            by_muon = by_muon and parameter.ndim == 2
            decays = not _NO_DECAY.search(name)
            key = (factor, decays, "last_layer" in name, by_muon)
            groups.setdefault(key, []).append(parameter)
    settings: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for (factor, decays, is_last_layer, by_muon), parameters in groups.items():
        settings[by_muon].append(
            {
                "params": parameters,
                "lr_factor": factor,
                "decays": decays,
                "is_last_layer": is_last_layer,
            }
        )
    adamw = torch.optim.AdamW(settings[False], lr=config.peak_learning_rate)
    if config.optimizer == "adamw":
        return adamw
    if not hasattr(torch.optim, "Muon"):
        raise ConfigError(
            f"optimizer 'muon' needs torch 2.9 or newer, got {torch.__version__}."
        )
    return MuonWithAdamW(
        torch.optim.Muon(settings[True], adjust_lr_fn="match_rms_adamw"), adamw
    )


def set_schedule(optimizer: Optimizer, step: int, config: PretrainingConfig) -> float:
    """Set learning rate and weight decay of a step (from 0).

    Returns the learning rate of a layer with factor 1.
    """
    learning_rate = warmup_cosine(
        step + 1,  # the learning rate of the first step is not 0
        round(config.warmup_fraction * config.n_steps),
        config.n_steps,
        peak=config.peak_learning_rate,
        final=config.final_learning_rate,
    )
    weight_decay = cosine(step, config.n_steps, *config.weight_decay)
    frozen = step < config.freeze_last_layer_fraction * config.n_steps
    for group in optimizer.param_groups:
        moves = not (frozen and group["is_last_layer"])
        group["lr"] = learning_rate * group["lr_factor"] * moves
        group["weight_decay"] = weight_decay * group["decays"]
    return learning_rate


def _lr_factor(name: str, config: PretrainingConfig) -> float:
    """Return the layer decay of a parameter; 1 for heads and the last norm."""
    depth = config.encoder.depth
    block = _BLOCK.match(name)
    if block:
        return config.layer_decay ** (depth - int(block.group(1)))
    if not name.startswith("encoder.") or name.startswith("encoder.norm"):
        return 1.0
    factor = config.layer_decay ** (depth + 1)
    return factor * config.patch_embed_lr if "patch_embed" in name else factor


def linear_warmup(step: int, n_steps: int, start: float, end: float) -> float:
    """Interpolate linearly from `start` at step 0 to `end` at `n_steps` and after.

    >>> [linear_warmup(step, 2, 0.0, 1.0) for step in range(4)]
    [0.0, 0.5, 1.0, 1.0]
    """
    if step >= n_steps:
        return end
    return start + (end - start) * step / n_steps


def cosine(step: int, n_steps: int, start: float, end: float) -> float:
    """Follow half a cosine from `start` at step 0 to `end` at `n_steps` and after.

    >>> [round(cosine(step, 2, 1.0, 0.0), 3) for step in range(4)]
    [1.0, 0.5, 0.0, 0.0]
    """
    if step >= n_steps:
        return end
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * step / n_steps))


def warmup_cosine(
    step: int, n_warmup_steps: int, n_steps: int, *, peak: float, final: float
) -> float:
    """Rise linearly from 0 to `peak`, then fall along half a cosine to `final`.

    >>> [round(warmup_cosine(s, 2, 4, peak=1.0, final=0.0), 3) for s in range(5)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if step < n_warmup_steps:
        return linear_warmup(step, n_warmup_steps, 0.0, peak)
    return cosine(step - n_warmup_steps, n_steps - n_warmup_steps, peak, final)
