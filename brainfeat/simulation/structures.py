"""Deep structures of the brain: their zones, and the modes in which they grow."""

__all__ = [
    "MODES",
    "ZONES",
    "ZoneName",
    "distance_to_chains",
    "split_structures",
    "structure_modes",
    "zone",
]

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from brainfeat.simulation.lattice import Lattice, refine
from brainfeat.simulation.smoothing import smooth
from brainfeat.simulation.tissue import TissueFractions
from brainfeat.simulation.vector_fields import solve_divergence

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
    zones = torch.stack(
        [zone(name, points) for name in ("ventricle", "medial_temporal", "deep_gray")],
        dim=-1,
    )
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
