"""Features of two scans on one grid: local structure, and components of tokens."""

__all__ = ["Sampled", "compare_tokens", "local_features"]

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor

from brainfeat.registration.descriptors import describe
from brainfeat.registration.scan import TokenMap
from brainfeat.registration.warping import interpolate
from brainfeat.volume import Geometry

Affine = NDArray[np.float64]

_SAME_CONTRAST = 0.5  # least correlation of two scans of one, aligned affinely
_INTENSITY_WEIGHT = 6.0  # against one of twelve channels of local structure


class Sampled(NamedTuple):
    """A scan on the grid of a pair."""

    values: NDArray[np.float32]  # (I, J, K)
    brain: NDArray[np.bool_]  # (I, J, K)


def local_features(
    fixed: Sampled, moving: Sampled, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Describe the local structure (C, I, J, K) of both scans within their brains.

    Where both have the same contrast, their intensities are compared, too.
    """
    first, second = _describe(fixed, device), _describe(moving, device)
    one, other = _scale(fixed), _scale(moving)
    shared = fixed.brain & moving.brain
    correlation = np.corrcoef(one[shared], other[shared])[0, 1]
    # Nothing correlates without an overlap, or where a brain has one brightness.
    if not correlation > _SAME_CONTRAST:
        return first, second
    weighted = [
        torch.from_numpy(_INTENSITY_WEIGHT * values[None]).to(device)
        for values in (one, other)
    ]
    return torch.cat([first, weighted[0]]), torch.cat([second, weighted[1]])


def _describe(scan: Sampled, device: torch.device) -> Tensor:
    """Describe a scan whose surroundings are dark, so that a head looks stripped."""
    dark = np.percentile(scan.values[scan.brain], 0.5)
    values = np.where(scan.brain, scan.values, dark).astype(np.float32)
    return describe(torch.from_numpy(np.ascontiguousarray(values)).to(device))


def _scale(scan: Sampled) -> NDArray[np.float32]:
    """Scale the intensities of the brain to 0 to 1; others are 0."""
    low, high = np.percentile(scan.values[scan.brain], [1.0, 99.0])
    scaled = (scan.values - low) / max(high - low, np.finfo(np.float32).tiny)
    return np.where(scan.brain, scaled.clip(0.0, 1.0), 0.0).astype(np.float32)


def compare_tokens(
    maps: tuple[TokenMap, TokenMap],
    placements: tuple[Affine, Affine],
    grid: Geometry,
    n_components: int,
) -> tuple[Tensor, Tensor]:
    """Return components (D, I, J, K) of the tokens of both scans on a coarse grid.

    They are principal components of the tokens of both brains, of equal variance and
    zero outside the brain; ``placements`` take mm of the grid to each scanner's.
    """
    brains = np.concatenate([tokens.values[tokens.inside] for tokens in maps])
    n_components = min(n_components, *brains.shape)
    pca = PCA(n_components, whiten=True, svd_solver="covariance_eigh").fit(brains)
    first, second = (
        _resample(_project(tokens, pca), tokens.geometry, placement, grid)
        for tokens, placement in zip(maps, placements, strict=True)
    )
    return first, second


def _project(tokens: TokenMap, pca: PCA) -> NDArray[np.float32]:
    scores = np.zeros((*tokens.inside.shape, pca.n_components_), np.float32)
    scores[tokens.inside] = pca.transform(tokens.values[tokens.inside])
    scores /= np.sqrt(pca.n_components_)
    return scores


def _resample(
    scores: NDArray[np.float32], tokens: Geometry, placement: Affine, grid: Geometry
) -> Tensor:
    to_voxel = np.linalg.inv(tokens.affine) @ placement @ grid.affine
    indices = np.indices(grid.shape).reshape(3, -1)
    points = to_voxel[:3, :3] @ indices + to_voxel[:3, 3:]
    points = points.clip(0.0, np.array(tokens.shape)[:, None] - 1.0)
    maps = [interpolate(scores[..., n], points) for n in range(scores.shape[3])]
    return torch.from_numpy(np.stack(maps).reshape(-1, *grid.shape))
