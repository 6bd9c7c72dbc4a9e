"""Smoothing and Euclidean distance on regular lattices."""

__all__ = ["distance_to", "smooth"]

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def smooth(values: Tensor, sigma: float) -> Tensor:
    """Convolve the last three axes with a Gaussian of `sigma` voxels."""
    if sigma <= 0:
        return values
    result = values
    for axis in (-3, -2, -1):
        weights = _gaussian_weights(values.shape[axis], sigma, values)
        result = torch.movedim(torch.movedim(result, axis, -1) @ weights.T, -1, axis)
    return result


def distance_to(mask: Tensor, *, limit: int) -> Tensor:
    """Compute the Euclidean distance in voxels to a mask, at most `limit`."""
    far = float(limit * limit)
    squared = torch.where(mask, 0.0, far)
    for axis in range(3):
        # Squared distances add over axes: one lower envelope per axis.
        squared = _lower_envelope(squared.movedim(axis, 0), limit).movedim(0, axis)
    return squared.clamp(max=far).sqrt()


def _lower_envelope(squared: Tensor, limit: int) -> Tensor:
    size = len(squared)
    result = squared.clone()
    for offset in range(1, min(limit, size - 1) + 1):
        cost = offset * offset
        result[offset:] = torch.minimum(result[offset:], squared[:-offset] + cost)
        result[:-offset] = torch.minimum(result[:-offset], squared[offset:] + cost)
    return result


def _gaussian_weights(size: int, sigma: float, like: Tensor) -> Tensor:
    radius = math.ceil(3 * sigma)
    steps = torch.arange(-radius, radius + 1, device=like.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    padded = F.pad(
        torch.eye(size, device=like.device)[:, None], (radius, radius), mode="replicate"
    )
    weights = F.conv1d(padded, (kernel / kernel.sum())[None, None])[:, 0]  # from, to
    return weights.T.to(like.dtype)
