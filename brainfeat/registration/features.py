"""Features of two scans on one grid: local structure, and components of tokens."""

__all__ = ["compare_tokens", "local_features"]

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


def local_features(
    sampled: NDArray[np.float32], brain: NDArray[np.bool_], device: torch.device
) -> Tensor:
    """Describe the local structure (12, I, J, K) of a scan within its brain.

    What surrounds the brain is made dark, so that a stripped scan looks like a head.
    """
    dark = np.percentile(sampled[brain], 0.5)
    values = np.where(brain, sampled, dark).astype(np.float32)
    return describe(torch.from_numpy(np.ascontiguousarray(values)).to(device))


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
