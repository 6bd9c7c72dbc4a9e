"""One process or many: what torchrun starts, and how networks are shared."""

__all__ = ["distributed", "shared_between_ranks"]

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.ranks import world_size
from brainfeat.pretraining.self_distillation import HeadedEncoder, SelfDistillation


@contextmanager
def distributed(device: torch.device) -> Iterator[None]:
    """Join the other processes, if torchrun started this one.

    Parameters
    ----------
    device : torch.device
        Device of this process; it decides between NCCL and Gloo.

    Yields
    ------
    None
        While the processes are joined.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def shared_between_ranks(
    model: SelfDistillation, config: PretrainingConfig
) -> SelfDistillation:
    """Wrap or shard a model for the processes of a run; alone, return it as it is.

    Parameters
    ----------
    model : SelfDistillation
        On its device, with the same weights in every process.
    config : PretrainingConfig
        Says whether weights are sharded.

    Returns
    -------
    SelfDistillation
        The same object.
    """
    if world_size() == 1:
        return model
    if config.parallel == "ddp":
        model.student = DistributedDataParallel(model.student)
        return model
    for network in (model.student, model.teacher):
        _shard(network)
    return model


def _shard(network: nn.Module) -> None:
    if not isinstance(network, HeadedEncoder):
        raise TypeError(f"expected a HeadedEncoder, got {type(network).__name__}.")
    for block in network.encoder.blocks:
        fully_shard(block)
    # The teacher has no backward pass that would shard its outer weights again.
    fully_shard(network, reshard_after_forward=True)
