"""Registration of two scans that are aligned to the template."""

__all__ = ["PairQuality", "RegisteredPair", "register_pair"]

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brainfeat.preprocessing.mutual_information import mutual_information, to_levels
from brainfeat.registration.deformable import (
    DeformableConfig,
    Features,
    register_features,
)
from brainfeat.registration.features import Sampled, compare_tokens, local_features
from brainfeat.registration.fields import folded_fraction, grid_points, sample
from brainfeat.registration.scan import AlignedScan
from brainfeat.registration.transform import SpatialTransform
from brainfeat.volume import Geometry

_COARSE = 2  # voxels along one of the grid on which tokens are compared
_N_COMPONENTS = 12
# Of the similarity before, since resampling alone changes it.
_LEAST_GAIN = 0.95
_MOST_FOLDED = 0.1  # percent


class PairQuality(NamedTuple):
    """How well two scans were registered."""

    similarity_before: float  # mutual information within the brain in nats: affine
    similarity_after: float
    folded_percent: float  # voxels of the brain where the field folds
    mean_displacement_mm: float  # in the brain, beyond the affine
    inconsistency_mm: float  # mean distance after going there and back
    doubt: str = ""  # why the moving scan or the field may be wrong


class RegisteredPair(NamedTuple):
    """The transform of a pair and its quality."""

    transform: SpatialTransform
    quality: PairQuality


def register_pair(
    fixed: AlignedScan,
    moving: AlignedScan,
    config: DeformableConfig | None,
    *,
    token_weight: float,
    device: torch.device,
) -> RegisteredPair:
    """Register a moving scan to a fixed one; affinely alone without a ``config``."""
    grid = fixed.grid
    affine = moving.to_scanner @ np.linalg.inv(fixed.to_scanner)
    placements = (np.eye(4), affine)
    both = [
        Sampled(scan.sample(grid, place), scan.sample_brain(grid, place))
        for scan, place in zip((fixed, moving), placements, strict=True)
    ]
    there = back = torch.zeros((3, *grid.shape))
    if config is not None:
        context: tuple[Tensor | None, Tensor | None] = (None, None)
        if token_weight > 0 and fixed.tokens and moving.tokens:
            tokens, coarse = (fixed.tokens, moving.tokens), _coarse_grid(grid)
            one, other = compare_tokens(tokens, placements, coarse, _N_COMPONENTS)
            context = (
                (token_weight * one).to(device),
                (token_weight * other).to(device),
            )
        masks = [torch.from_numpy(one.brain.copy()).to(device) for one in both]
        local = local_features(both[0], both[1], device)
        first, second = map(Features, local, context, masks)
        there, back = (u.cpu() for u in register_features(first, second, config))
    transform = SpatialTransform(
        affine=affine,
        field=_to_mm(there, grid),
        grid=grid,
        fixed=fixed.native,
        moving=moving.native,
        inverse_field=_to_mm(back, grid),
    )
    quality = _assess(both, there, back, grid)
    doubts = [moving.quality.doubt, _find_doubt(quality)]
    doubt = "; ".join(filter(None, doubts))
    return RegisteredPair(transform, quality._replace(doubt=doubt))


def _find_doubt(quality: PairQuality) -> str:
    """Return why the field may be wrong; empty if nothing says so."""
    before, after = quality.similarity_before, quality.similarity_after
    if after < _LEAST_GAIN * before:
        return f"the deformation lowers the similarity from {before:.2f} to {after:.2f}"
    if quality.folded_percent > _MOST_FOLDED:
        return f"the deformation folds in {quality.folded_percent:.2f} % of the brain"
    return ""


def _coarse_grid(grid: Geometry) -> Geometry:
    """Return the grid of blocks of voxels."""
    to_fine = np.diag([_COARSE, _COARSE, _COARSE, 1.0])
    to_fine[:3, 3] = (_COARSE - 1) / 2.0
    i, j, k = (size // _COARSE for size in grid.shape)
    return Geometry((i, j, k), grid.affine @ to_fine)


def _to_mm(field: Tensor, grid: Geometry) -> NDArray[np.float32]:
    linear = grid.affine[:3, :3].astype(np.float32)
    return np.ascontiguousarray(field.numpy().transpose(1, 2, 3, 0) @ linear.T)


def _assess(
    both: list[Sampled], there: Tensor, back: Tensor, grid: Geometry
) -> PairQuality:
    fixed, moving = both
    points = grid_points(grid.shape, there.device)
    warped = sample(torch.from_numpy(moving.values.copy())[None], points + there)[0]
    brain = fixed.brain
    levels = [
        to_levels(np.where(brain, values, np.nan))
        for values in (fixed.values, moving.values, warped.numpy())
    ]
    mask = torch.from_numpy(brain.copy())
    mm = grid.spacing[0]
    returned = there + sample(back, points + there)
    return PairQuality(
        mutual_information(levels[0], levels[1]),
        mutual_information(levels[0], levels[2]),
        100.0 * folded_fraction(there, mask),
        mm * float(there.norm(dim=0)[mask].mean()),
        mm * float(returned.norm(dim=0)[mask].mean()),
    )
