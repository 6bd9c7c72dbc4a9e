"""Devices and ranks of a run, and networks that ranks share."""

__all__ = ["gradient_sync", "joined_ranks", "wrap_for_ranks"]

import os
from collections.abc import Iterator
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    nullcontext,
)
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from brainfeat.models.device import resolve_training_device
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.ranks import world_size
from brainfeat.pretraining.self_distillation import SelfDistillation, unwrapped


@contextmanager
def joined_ranks(device: str) -> Iterator[torch.device]:
    """Join the other ranks, if torchrun started this process; yield its device.

    Restores torch's random state on exit.
    """
    target = resolve_training_device(device)
    is_cuda = target.type == "cuda"
    with ExitStack() as stack:
        if is_cuda:
            # First, since the first use of CUDA takes memory of the current GPU.
            stack.enter_context(torch.cuda.device(target))
        stack.enter_context(torch.random.fork_rng([target] if is_cuda else []))
        if "TORCHELASTIC_RUN_ID" not in os.environ or dist.is_initialized():
            yield target
            return
        if is_cuda:
            dist.init_process_group("nccl", device_id=target)
        else:
            dist.init_process_group("gloo")
        try:
            yield target
        finally:
            dist.destroy_process_group()


def wrap_for_ranks(
    model: SelfDistillation, config: PretrainingConfig
) -> SelfDistillation:
    """Wrap or shard a model, with the same weights in all ranks; return it."""
    if world_size() == 1:
        return model
    if config.parallel == "ddp":
        model.student = DistributedDataParallel(model.student)
        return model
    for network in (model.student, model.teacher):
        _shard(network)
    return model


def _shard(network: nn.Module) -> None:
    for block in unwrapped(network).encoder.blocks:
        fully_shard(block)
    # The teacher has no backward pass that would shard its outer weights again.
    fully_shard(network, reshard_after_forward=True)


def gradient_sync(network: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
    """Exchange gradients between ranks only in the last part of a step."""
    if isinstance(network, DistributedDataParallel) and not is_last:
        return network.no_sync()
    return nullcontext()
