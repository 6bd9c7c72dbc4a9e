"""Discrete search of displacements with a convex regularisation.

References
----------
.. [1] M. P. Heinrich, B. W. Papiez, J. A. Schnabel, H. Handels, "Non-parametric
   discrete registration with convex optimisation", WBIR 2014.
"""

__all__ = ["make_consistent", "search"]

import torch
from torch import Tensor
from torch.nn import functional as F

from brainfeat.registration.fields import grid_points, sample, smooth

# Weight of the distance to the smooth field, which rises until both agree.
_COUPLINGS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_N_CONSISTENT = 15


def search(fixed: Tensor, moving: Tensor, weights: Tensor, reach: int) -> Tensor:
    """Return the smooth displacement (3, I, J, K), in voxels, up to ``reach``.

    All whole displacements of a cube are compared: the features (C, I, J, K) of the
    moving scan there, to the fixed one's, with ``weights`` (I, J, K). Best ones, and a
    smooth field close to them, are found in turn [1]_.
    """
    steps = torch.arange(-reach, reach + 1, device=fixed.device)
    shifts = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1)
    offsets = shifts.reshape(-1, 3)
    costs = _costs(fixed, moving, weights, offsets, reach)
    candidates = offsets.to(fixed.dtype)
    squares = candidates.square().sum(dim=1)
    # Where nothing is compared, the shortest displacement is the best.
    shortest = _COUPLINGS[0] * squares[:, None, None, None]
    field = smooth(candidates[(costs + shortest).argmin(dim=0)].movedim(-1, 0))
    for coupling in _COUPLINGS:
        # |candidate - field|^2, but for the square of the field.
        product = torch.einsum("nx,xijk->nijk", candidates, field)
        distance = squares[:, None, None, None] - 2.0 * product
        best = distance.mul_(coupling).add_(costs).argmin(dim=0)
        field = smooth(candidates[best].movedim(-1, 0))
    return field


def make_consistent(there: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """Average two fields with the inverse of each other, until both are inverses."""
    points = grid_points(tuple(there.shape[1:]), there.device)
    for _ in range(_N_CONSISTENT):
        there, back = (
            0.5 * (there - sample(back, points + there)),
            0.5 * (back - sample(there, points + back)),
        )
    return there, back


def _costs(
    fixed: Tensor, moving: Tensor, weights: Tensor, offsets: Tensor, reach: int
) -> Tensor:
    """Compare features at each offset: (n_offsets, I, J, K)."""
    padded = F.pad(moving[None], (reach,) * 6, mode="replicate")[0]
    costs = fixed.new_empty((len(offsets), *fixed.shape[1:]))
    for cost, offset in zip(costs, offsets.tolist(), strict=True):
        i, j, k = (
            slice(reach + step, reach + step + size)
            for step, size in zip(offset, fixed.shape[1:], strict=True)
        )
        cost.copy_((padded[:, i, j, k] - fixed).square_().sum(dim=0))
    costs *= weights
    return F.avg_pool3d(F.pad(costs[None], (1,) * 6, mode="replicate"), 3, 1)[0]
