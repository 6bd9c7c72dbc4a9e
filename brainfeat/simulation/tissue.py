"""Tissue fractions of a brain from its T1w intensities alone."""

__all__ = ["TissueFractions", "cluster_tissue", "sharpen_fractions"]

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from brainfeat.simulation.smoothing import smooth

_COARSE = 3.0  # mm, edge of the voxels that the bias field is estimated in
_BIAS_SIGMA = 11.0  # mm
# A mean of high power is near the local maximum, which is white matter wherever
# there is some within _BIAS_SIGMA.
_BIAS_POWER = 12
_N_ROUNDS = 12


class TissueFractions(NamedTuple):
    """Fractions of each voxel, each of shape (I, J, K); they sum to the mask."""

    csf: Tensor
    gray_matter: Tensor
    white_matter: Tensor


def cluster_tissue(
    t1: Tensor, mask: Tensor, *, spacing: float
) -> tuple[TissueFractions, Tensor]:
    """Cluster a T1w brain into three tissues; also return it without its bias field.

    Grey and white matter are clustered by one-dimensional k-means, CSF is the dark end,
    and a voxel between two means is divided between the tissues. White matter is 1 in
    the corrected volume.
    """
    corrected = t1 / _bias_field(t1, mask, spacing)
    means = _tissue_means(corrected[mask > 0.9])
    corrected, means = corrected / means[2], means / means[2]
    csf = ((means[1] - corrected) / (means[1] - means[0])).clamp(0, 1)
    white = ((corrected - means[1]) / (means[2] - means[1])).clamp(0, 1)
    fractions = TissueFractions(csf * mask, (1 - csf - white) * mask, white * mask)
    return fractions, corrected


def sharpen_fractions(fractions: TissueFractions, power: float) -> TissueFractions:
    """Raise fractions to a power and rescale: group averages are blurred."""
    stacked = torch.stack(fractions)
    powered = stacked.clamp(min=0).pow(power)
    scale = stacked.sum(0) / powered.sum(0).clamp(min=1e-6)
    return TissueFractions(*(powered * scale))


def _bias_field(t1: Tensor, mask: Tensor, spacing: float) -> Tensor:
    i, j, k = (max(1, round(size * spacing / _COARSE)) for size in t1.shape)
    values, fraction = F.adaptive_avg_pool3d(torch.stack([t1, mask]), (i, j, k))
    inside = (fraction > 0.8).to(values)
    # Vessels are brighter than any tissue and would dominate a mean of high power.
    brightest = torch.quantile(values[inside > 0], 0.98).clamp(min=1e-6)
    powered = (values / brightest).clamp(max=1) ** _BIAS_POWER * inside
    sigma = _BIAS_SIGMA / _COARSE
    # Far from the brain the field tends to a constant.
    mean = (smooth(powered, sigma) + 1e-4) / (smooth(inside, sigma) + 1e-4)
    bias = brightest * mean ** (1 / _BIAS_POWER)
    return F.interpolate(bias[None, None], size=t1.shape, mode="trilinear")[0, 0]


def _tissue_means(values: Tensor) -> Tensor:
    csf = values.kthvalue(max(1, round(0.02 * len(values)))).values
    means = torch.stack([csf + 0.6 * (1 - csf), torch.ones_like(csf)])
    for _ in range(_N_ROUNDS):
        # Without the voxels nearer to CSF than to grey matter.
        brain = values[values > (csf + means[0]) / 2]
        white = brain > means.mean()
        means = torch.stack([brain[~white].mean(), brain[white].mean()])
    return torch.stack([csf, *means])
