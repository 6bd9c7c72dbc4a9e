"""Discrete search of displacements with a convex regularisation.

References
----------
.. [1] M. P. Heinrich, B. W. Papiez, J. A. Schnabel, H. Handels, "Non-parametric
   discrete registration with convex optimisation", WBIR 2014.
"""

__all__ = ["make_consistent", "search_both"]

import torch
from torch import Tensor
from torch.nn import functional as F

from brainfeat.registration.fields import grid_points, sample, smooth

# Weight of the distance to the smooth field, which rises until both agree.
_COUPLINGS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_N_CONSISTENT = 15


def search_both(
    fixed: Tensor, moving: Tensor, weights: tuple[Tensor, Tensor], reach: int
) -> tuple[Tensor, Tensor]:
    """Return smooth displacements (3, I, J, K) there and back, in voxels.

    All whole displacements of a cube up to ``reach`` are compared: features (C, I, J,
    K) of the moving scan there, to the fixed one's, with ``weights`` (I, J, K) of each.
    Best ones, and a smooth field close to them, are found in turn [1]_.
    """
    steps = torch.arange(-reach, reach + 1, device=fixed.device)
    shifts = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1)
    offsets = shifts.reshape(-1, 3)
    costs = _compare(fixed, moving, offsets, reach)
    # A voxel and its match are compared once for both ways.
    back = torch.stack(
        [
            _shift(cost, offset, reach)
            for cost, offset in zip(costs.flip(0), offsets.tolist(), strict=True)
        ]
    )
    there = _search(costs, weights[0], offsets)
    return there, _search(back, weights[1], offsets)


def make_consistent(there: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """Average two fields with the inverse of each other, until both are inverses."""
    points = grid_points(tuple(there.shape[1:]), there.device)
    for _ in range(_N_CONSISTENT):
        there, back = (
            0.5 * (there - sample(back, points + there)),
            0.5 * (back - sample(there, points + back)),
        )
    return there, back


def _search(costs: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """Find a smooth field of low costs (n_offsets, I, J, K), which are changed."""
    shape = weights.shape
    for cost in costs:
        cost.copy_(smooth(cost.mul_(weights)[None], 1)[0])
    costs = costs.flatten(1)
    candidates = offsets.to(costs.dtype)
    squares = candidates.square().sum(dim=1, keepdim=True)
    # Where nothing is compared, the shortest displacement is the best.
    best = (costs + _COUPLINGS[0] * squares).argmin(dim=0)
    field = smooth(candidates[best].T.view(3, *shape))
    # |candidate - field|^2, but for the square of the field, is a product of matrices.
    factors = torch.cat([squares, -2.0 * candidates], dim=1)
    distances = torch.empty_like(costs)
    ones = torch.ones_like(costs[:1])
    for coupling in _COUPLINGS:
        rows = torch.cat([ones, field.flatten(1)])
        torch.addmm(costs, factors, rows, alpha=coupling, out=distances)
        field = smooth(candidates[distances.argmin(dim=0)].T.view(3, *shape))
    return field


def _compare(fixed: Tensor, moving: Tensor, offsets: Tensor, reach: int) -> Tensor:
    """Compare features at each offset: (n_offsets, I, J, K)."""
    padded = F.pad(moving[None], (reach,) * 6, mode="replicate")[0]
    costs = fixed.new_empty((len(offsets), *fixed.shape[1:]))
    for cost, offset in zip(costs, offsets.tolist(), strict=True):
        there = _window(padded, offset, fixed.shape[1:], reach)
        torch.sum((there - fixed).square_(), dim=0, out=cost)
    return costs


def _shift(cost: Tensor, offset: list[int], reach: int) -> Tensor:
    padded = F.pad(cost[None, None], (reach,) * 6, mode="replicate")[0, 0]
    return _window(padded, offset, cost.shape, reach)


def _window(padded: Tensor, offset: list[int], shape: torch.Size, reach: int) -> Tensor:
    i, j, k = (
        slice(reach + step, reach + step + size)
        for step, size in zip(offset, shape, strict=True)
    )
    return padded[..., i, j, k]
