"""What the processes of one run tell each other; with one process, nothing."""

__all__ = [
    "all_ranks_mean",
    "all_ranks_sum",
    "gather_rows",
    "logsumexp_over_ranks",
    "rank",
    "world_size",
]

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of processes of this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def gather_rows(rows: Tensor) -> Tensor:
    """Stack the rows of all processes, and let gradients flow back to each.

    Parameters
    ----------
    rows : Tensor of shape (B, D)
        Rows of this process, equally many in each.

    Returns
    -------
    Tensor of shape (world_size * B, D)
        Rows of rank 0 first. The gradient that reaches `rows` is the sum over
        the losses of all processes; where gradients are then averaged over
        processes, the result is the gradient of the mean loss.
    """
    if world_size() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows)
    return gathered


def all_ranks_sum(values: Tensor) -> Tensor:
    """Sum a tensor over processes, without gradient."""
    total = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def all_ranks_mean(values: Tensor) -> Tensor:
    """Average a tensor over processes, without gradient."""
    return all_ranks_sum(values) / world_size()


def logsumexp_over_ranks(values: Tensor) -> Tensor:
    """Compute ``logsumexp`` over the rows of all processes, without gradient.

    Parameters
    ----------
    values : Tensor of shape (N, K)
        Rows of this process; N may differ between processes and be 0.

    Returns
    -------
    Tensor of shape (1, K)
        The same on every process.
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
