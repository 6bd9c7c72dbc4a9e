"""From the features of two scans on one grid to the fields between them."""

__all__ = ["DeformableConfig", "Features", "register_features"]

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from brainfeat.registration.fields import exponentiate, resize, smooth
from brainfeat.registration.optimisation import FieldConfig, Side, flow, optimise
from brainfeat.registration.search import make_consistent, search_both

_FACTOR = 2  # voxels of the features along one of the coarse grid
_MARGIN = 2  # voxels around the brain that are compared, too
_BORDER = 2  # coarse voxels at the border over which the field fades to zero
_N_LOGARITHM = 5


@dataclass(frozen=True, kw_only=True)
class DeformableConfig:
    """How two scans are deformed onto each other."""

    reach: int = 3  # voxels of the coarse grid that are searched
    cost: float = 1.0  # of the search, against its smoothness
    field: FieldConfig = field(default_factory=FieldConfig)


class Features(NamedTuple):
    """What is compared of a scan, on the grid of both."""

    local: Tensor  # (C, I, J, K), local structure
    context: Tensor | None  # (D, i, j, k), of tokens, on the coarse grid
    mask: Tensor  # (I, J, K), boolean: the brain


def register_features(
    fixed: Features, moving: Features, config: DeformableConfig
) -> tuple[Tensor, Tensor]:
    """Return the fields (3, I, J, K) from fixed to moving and back, in voxels."""
    i, j, k = fixed.mask.shape
    coarse = _search_both(fixed, moving, config)
    controls = optimise(
        _logarithm(coarse),
        [_side(fixed), _side(moving)],
        (i, j, k),
        config.field,
    )
    # The velocity fades, so that both fields stay inverses of each other.
    faded = controls * _window(controls.shape[1:], controls.device)
    there, back = (flow(sign * faded, config.field) for sign in (1.0, -1.0))
    return resize(there, (i, j, k)), resize(back, (i, j, k))


def _search_both(fixed: Features, moving: Features, config: DeformableConfig) -> Tensor:
    pooled, weights = [], []
    for features in (fixed, moving):
        maps = F.avg_pool3d(features.local[None], _FACTOR)[0]
        if features.context is not None:
            maps = torch.cat([maps, features.context])
        pooled.append(maps)
        near = _grow(features.mask).float()
        weights.append(F.avg_pool3d(near[None, None], _FACTOR)[0, 0] * config.cost)
    if config.reach == 0:
        return torch.zeros((3, *pooled[0].shape[1:]), device=pooled[0].device)
    both = search_both(pooled[0], pooled[1], (weights[0], weights[1]), config.reach)
    return make_consistent(*both)[0]


def _logarithm(field: Tensor) -> Tensor:
    """Return a smooth velocity whose flow is about a field."""
    velocity = smooth(field)
    for _ in range(_N_LOGARITHM):
        velocity = smooth(velocity + field - exponentiate(velocity), 1)
    return velocity


def _side(features: Features) -> Side:
    rows = features.local.flatten(1).T.contiguous()
    return Side(rows, _grow(features.mask).nonzero())


def _grow(mask: Tensor) -> Tensor:
    size = 2 * _MARGIN + 1
    grown = F.max_pool3d(mask[None, None].float(), size, stride=1, padding=_MARGIN)
    return grown[0, 0] > 0


def _window(shape: torch.Size, device: torch.device) -> Tensor:
    """Return weights (I, J, K) of 1 that fall to 0 at the border."""
    window = torch.ones(shape, device=device)
    for axis, size in enumerate(shape):
        index = torch.arange(size, device=device, dtype=torch.float32)
        ramp = torch.minimum(index, size - 1 - index).div(_BORDER).clamp(max=1.0)
        window = window * ramp.view([-1 if a == axis else 1 for a in range(3)])
    return window
