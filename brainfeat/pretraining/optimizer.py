"""AdamW with a learning rate for each layer and decay for matrices only.

References
----------
.. [1] Bao et al., "BEiT: BERT pre-training of image transformers" (layer decay),
   arXiv 2106.08254.
"""

__all__ = ["build_optimizer", "set_schedule"]

import re

import torch
from torch import nn

from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.schedules import cosine, warmup_cosine

_BLOCK = re.compile(r"encoder\.(?:blocks|slab_mixing)\.(\d+)\.")
_NO_DECAY = re.compile(r"\.bias$|norm|gamma|_embed$|token")


def build_optimizer(network: nn.Module, config: PretrainingConfig) -> torch.optim.AdamW:
    """Group the parameters of a network by learning rate and weight decay.

    Parameters
    ----------
    network : nn.Module
        A `HeadedEncoder`, not wrapped.
    config : PretrainingConfig
        Layer decay and the factor of the patch embedding.

    Returns
    -------
    AdamW
        Its groups carry ``lr_factor``, ``decays`` and ``is_last_layer``, which
        `set_schedule` reads.
    """
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            factor = _lr_factor(name, config)
            key = (factor, not _NO_DECAY.search(name), "last_layer" in name)
            groups.setdefault(key, []).append(parameter)
    settings = [
        {
            "params": parameters,
            "lr_factor": factor,
            "decays": decays,
            "is_last_layer": is_last_layer,
        }
        for (factor, decays, is_last_layer), parameters in groups.items()
    ]
    return torch.optim.AdamW(settings, lr=config.peak_learning_rate)


def set_schedule(
    optimizer: torch.optim.Optimizer, step: int, config: PretrainingConfig
) -> float:
    """Give every group the learning rate and weight decay of a step.

    Parameters
    ----------
    optimizer : Optimizer
        Made by `build_optimizer`.
    step : int
        Current step, from 0.
    config : PretrainingConfig
        Schedules.

    Returns
    -------
    float
        Learning rate of a layer with factor 1.
    """
    learning_rate = warmup_cosine(
        step + 1,  # the first step should move something
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
    """Decay from the top block down; heads and the last norm have factor 1."""
    depth = config.encoder.depth
    block = _BLOCK.match(name)
    if block:
        return config.layer_decay ** (depth - int(block.group(1)))
    if not name.startswith("encoder.") or name.startswith("encoder.norm"):
        return 1.0
    factor = config.layer_decay ** (depth + 1)
    return factor * config.patch_embed_lr if "patch_embed" in name else factor
