"""A smooth, invertible field that makes the features of two scans agree.

The field is the flow of a stationary velocity on a coarser grid, so that its inverse is
the flow of the opposite velocity; scans are compared in both directions.
"""

__all__ = ["FieldConfig", "Side", "flow", "optimise"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from brainfeat.registration.fields import exponentiate, sample, smooth

# With a smaller one, the field between a scan and itself was seen to move.
_EPSILON = 1e-6
_N_STEPS = 2  # of the flow of a point


@dataclass(frozen=True, kw_only=True)
class FieldConfig:
    """How the field is optimised."""

    n_steps: int = 50
    learning_rate: float = 0.25  # voxels of the velocity's grid
    smoothness: float = 3.0  # weight of squared slopes of the velocity
    n_smooth: int = 2  # averages of neighbours, about cubic splines
    fraction: float = 0.1  # of the points that each step compares
    n_squarings: int = 4


class Side(NamedTuple):
    """Features of one of the scans, and where they are compared."""

    features: Tensor  # (I J K, C), a row a voxel
    points: Tensor  # (n, 3), indices of voxels


def flow(velocity: Tensor, config: FieldConfig) -> Tensor:
    """Return the field of control values (3, i, j, k)."""
    return exponentiate(smooth(velocity, config.n_smooth), config.n_squarings)


def optimise(
    start: Tensor,
    sides: Sequence[Side],
    shape: tuple[int, int, int],
    config: FieldConfig,
) -> Tensor:
    """Fit the control values (3, i, j, k) of the velocity by Adam.

    ``sides`` are the fixed and the moving scan on one grid of ``shape``, whose corners
    are those of the velocity's grid.
    """
    generator = torch.Generator().manual_seed(0)
    controls = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([controls], lr=config.learning_rate, eps=_EPSILON)
    sizes = zip(shape, start.shape[1:], strict=True)
    ratio = torch.tensor([(a - 1) / (b - 1) for a, b in sizes], device=start.device)
    fixed, moving = sides
    with torch.enable_grad():
        for _ in range(config.n_steps):
            velocity = smooth(controls, config.n_smooth)
            loss = config.smoothness * _roughness(velocity)
            for here, there, sign in ((fixed, moving, 1.0), (moving, fixed, -1.0)):
                points = _draw(here.points, config.fraction, generator)
                moved = _carry(points, sign * velocity, ratio)
                loss = loss + _mismatch(here, there, points, moved, shape)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return controls.detach()


def _roughness(velocity: Tensor) -> Tensor:
    slopes = [velocity.diff(dim=axis).square().mean() for axis in (1, 2, 3)]
    return torch.stack(slopes).sum()


def _draw(points: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Draw points, sorted: neighbours are read from one place."""
    count = max(1, int(fraction * len(points)))
    drawn = torch.randint(len(points), (count,), generator=generator)
    return points[drawn.sort()[0].to(points.device)]


def _carry(points: Tensor, velocity: Tensor, ratio: Tensor) -> Tensor:
    """Carry points (n, 3), in voxels of the features, by a velocity of a coarser grid.

    Midpoint steps for the points alone take a fraction of the time of the whole flow.
    """
    start = (points / ratio).T[:, :, None, None]
    step, place = 1.0 / _N_STEPS, start
    for _ in range(_N_STEPS):
        middle = place + 0.5 * step * sample(velocity, place)
        place = place + step * sample(velocity, middle)
    return points + (place - start)[:, :, 0, 0].T * ratio


def _mismatch(
    here: Side, there: Side, points: Tensor, moved: Tensor, shape: tuple[int, int, int]
) -> Tensor:
    i, j, k = points.unbind(1)
    expected = here.features[(i * shape[1] + j) * shape[2] + k]
    mismatch: Tensor = _Mismatch.apply(there.features, expected, moved, shape)
    return mismatch


class _Mismatch(torch.autograd.Function):
    """Mean over points of squared differences of features, sampled linearly.

    A row of features is contiguous, which takes a fifth of the time of torch's
    sampling of maps, and the gradient comes with it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        expected: Tensor,
        points: Tensor,
        shape: tuple[int, int, int],
    ) -> Tensor:
        last = torch.tensor(shape, device=points.device) - 2
        first = torch.minimum(points.floor().long().clamp_(min=0), last)
        part = (points - first).clamp(0.0, 1.0)
        x, y, z = part[:, :1], part[:, 1:2], part[:, 2:]
        base = (first[:, 0] * shape[1] + first[:, 1]) * shape[2] + first[:, 2]
        step_i, step_j = shape[1] * shape[2], shape[2]
        lines = []
        for offset in (0, step_j, step_i, step_i + step_j):
            near = features.index_select(0, base + offset)
            slope = features.index_select(0, base + offset + 1).sub_(near)
            lines.append((torch.addcmul(near, slope, z), slope))
        (a, sa), (b, sb), (c, sc), (d, sd) = lines
        left, right = torch.lerp(a, b, y), torch.lerp(c, d, y)
        difference = torch.lerp(left, right, x) - expected
        slopes = torch.stack(
            [
                ((right - left) * difference).sum(1),
                (torch.lerp(b - a, d - c, x) * difference).sum(1),
                (torch.lerp(torch.lerp(sa, sb, y), torch.lerp(sc, sd, y), x))
                .mul_(difference)
                .sum(1),
            ],
            dim=1,
        )
        ctx.save_for_backward(slopes)
        return difference.square().sum() / len(points)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor, None]:
        (slopes,) = ctx.saved_tensors
        return None, None, gradients[0] * 2.0 / len(slopes) * slopes, None
