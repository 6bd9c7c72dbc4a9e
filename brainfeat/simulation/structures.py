"""Tissues and deep structures of the brain, and the modes in which they grow."""

__all__ = [
    "MODES",
    "ZONES",
    "TissueFractions",
    "cluster_tissue",
    "distance_to_chains",
    "sharpen_fractions",
    "split_structures",
    "structure_modes",
    "zone",
]

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from brainfeat.simulation.deformation import solve_divergence
from brainfeat.simulation.lattice import Lattice, refine
from brainfeat.simulation.smoothing import smooth

ZoneName = Literal["ventricle", "medial_temporal", "deep_gray"]
Chain = tuple[Sequence[tuple[float, float, float]], float]

# Positions were read off the MNI152 2009a template. A zone is generous: a structure
# is the part of its tissue that lies in its zone.
# Right-hand chains: points in mm (left ones are mirrored) and a radius in mm.
ZONES: dict[ZoneName, tuple[Chain, ...]] = {
    "ventricle": (
        # Frontal horn and body, trigone, occipital horn.
        (((12, 34, 2), (13, 18, 16), (13, 0, 23), (17, -22, 24)), 11.0),
        (((17, -22, 24), (27, -44, 12), (27, -62, 8)), 10.0),
        # Temporal horn.
        (((27, -44, 12), (36, -34, -4), (35, -18, -14), (30, -10, -20)), 4.5),
    ),
    "medial_temporal": (
        # Amygdala and hippocampal head, body, tail.
        (((22, -3, -19), (25, -14, -19), (30, -24, -13), (30, -34, -5)), 7.5),
    ),
    "deep_gray": (
        # Thalamus; caudate head and body; putamen and pallidum.
        (((9, -8, 8), (14, -24, 8)), 11.0),
        (((11, 18, 0), (14, 8, 14), (18, -14, 21)), 6.5),
        (((21, 10, -2), (26, 2, 0), (29, -12, 4)), 9.5),
    ),
}

# Each mode: the structure, its side (-1 left, 1 right, 0 both), and the distance in
# mm over which the surroundings are displaced.
MODES: dict[str, tuple[str, int, float]] = {
    "ventricle_left": ("ventricle", -1, 14.0),
    "ventricle_right": ("ventricle", 1, 14.0),
    "medial_temporal_left": ("medial_temporal", -1, 7.0),
    "medial_temporal_right": ("medial_temporal", 1, 7.0),
    "gray_matter": ("gray_matter", 0, 6.0),
}
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


def zone(name: ZoneName, points: Tensor) -> Tensor:
    """Return the membership of points (..., 3) in a zone; it falls over 2 mm."""
    right = points.clone()
    right[..., 0] = right[..., 0].abs()
    return ((1 - distance_to_chains(ZONES[name], right)) / 2).clamp(0, 1)


def distance_to_chains(chains: Sequence[Chain], points: Tensor) -> Tensor:
    """Compute the signed distance in mm to a union of capsules, negative inside."""
    distance = torch.full(points.shape[:-1], float("inf"), device=points.device)
    for knots, radius in chains:
        corners = torch.tensor(knots, dtype=points.dtype, device=points.device)
        for start, end in pairwise(corners):
            along = end - start
            fraction = ((points - start) @ along / along.square().sum()).clamp(0, 1)
            gap = (points - start - fraction[..., None] * along).norm(dim=-1)
            distance = torch.minimum(distance, gap - radius)
    return distance


def split_structures(
    fractions: TissueFractions, lattice: Lattice, *, deep_gain: float
) -> dict[str, Tensor]:
    """Divide tissues into the structures of `anatomy.BRAIN_CLASSES`.

    `deep_gain` is the deep grey matter per unit of what is classified as grey there.
    """
    # Zones are smooth and generous, so a coarse lattice is enough.
    coarse = lattice.coarsened(2.0)
    points = coarse.points()
    zones = torch.stack([zone(name, points) for name in ZONES], dim=-1)
    ventricle, medial, deep = refine(zones[None], lattice.shape)[0].unbind(-1)
    deep = deep * (1 - medial)
    csf, gray, white = fractions
    # Grey matter on a ventricle's wall is CSF and white matter sharing a voxel.
    wall = gray * ventricle * (1 - torch.maximum(medial, deep))
    gray = gray - wall
    nuclei = torch.minimum(deep_gain * gray, gray + white) * deep
    return {
        "csf": csf * (1 - ventricle),
        "gray_matter": gray * (1 - medial) * (1 - deep),
        "white_matter": white + wall / 2 - (nuclei - gray * deep),
        "ventricle": csf * ventricle + wall / 2,
        "medial_temporal": gray * medial,
        "deep_gray": nuclei,
    }


def structure_modes(structures: Mapping[str, Tensor], lattice: Lattice) -> Tensor:
    """Return velocities (n_modes, 3, I, J, K), in mm, that grow one structure each.

    The divergence is one in the structure and balanced around it, so that the rest of
    the head stays in place. With coefficient ``c`` a volume grows ``exp(c)``-fold.
    """
    brain = torch.stack(list(structures.values())).sum(0)
    side = lattice.points(device=brain.device)[..., 0].sign()
    fields = []
    for name, hand, reach in MODES.values():
        structure = structures[name] * (side * hand >= 0)
        fields.append(_mode(structure, brain, lattice, reach))
    return torch.stack(fields)


def _mode(structure: Tensor, brain: Tensor, lattice: Lattice, reach: float) -> Tensor:
    around = smooth(structure, reach / max(lattice.spacing)) * brain * (1 - structure)
    total = structure.sum().clamp(min=1e-6)
    divergence = structure - around * (total / around.sum().clamp(min=1e-6))
    # Partial volume weakens the field inside; scale it to one on average there.
    gain = (structure * divergence).sum().clamp(min=1e-6) / total
    # The map goes from a subject to the base, so it shrinks what grows in the subject.
    return -solve_divergence(divergence / gain, lattice)


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
