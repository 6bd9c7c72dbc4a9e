"""Communication between the ranks of a run; with one process, none."""

__all__ = [
    "all_ranks_max",
    "all_ranks_mean",
    "all_ranks_sum",
    "gather_rows",
    "logsumexp_over_ranks",
    "new_patient_group",
    "rank",
    "world_size",
]

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# NCCL gives up after minutes. Preprocessing takes hours, and a disk may be slow.
_PATIENCE = timedelta(days=3)


def new_patient_group() -> dist.ProcessGroup | None:
    """Return a group of all ranks that wait long for each other; None without ranks."""
    if world_size() == 1:
        return None
    group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=_PATIENCE)
    return group


def world_size() -> int:
    """Return the number of processes of the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def gather_rows(rows: Tensor) -> Tensor:
    """Stack the rows (B, D) of all ranks, rank 0 first, with gradients.

    B is the same in all ranks. The gradient is that of the sum of the losses of all
    ranks, so that averaging it over ranks gives the gradient of the mean loss.
    """
    if world_size() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows)
    return gathered


def all_ranks_sum(values: Tensor) -> Tensor:
    """Sum a tensor over ranks, without gradient."""
    total = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def all_ranks_max(value: int, device: torch.device) -> int:
    """Return the largest of a number of each rank."""
    if world_size() == 1:
        return value
    largest = torch.tensor(value, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)


def all_ranks_mean(values: Tensor) -> Tensor:
    """Average a tensor over ranks, without gradient."""
    return all_ranks_sum(values) / world_size()


def logsumexp_over_ranks(values: Tensor) -> Tensor:
    """Compute ``logsumexp`` (1, K) over the rows (N, K) of all ranks, no gradient.

    N may differ between ranks and be 0.
    """
    if world_size() == 1:
        return values.logsumexp(dim=0, keepdim=True)
    floor = values.new_full((1, values.shape[1]), torch.finfo(values.dtype).min)
    largest = torch.cat([values, floor]).amax(dim=0, keepdim=True)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    total = (values - largest).exp().sum(dim=0, keepdim=True)
    dist.all_reduce(total)
    return largest + total.log()


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.n_rows = len(rows)
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        start = rank() * ctx.n_rows
        return total[start : start + ctx.n_rows]
