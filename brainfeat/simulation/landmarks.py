"""Where deep structures lie in MNI152 space, as chains of capsules.

Positions were read off the MNI152 2009a template.  A zone is generous: the
structure is what of the right tissue lies inside it.
"""

__all__ = ["ZONES", "ZoneName", "distance_to_chains", "zone"]

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

ZoneName = Literal["ventricle", "medial_temporal", "deep_gray"]
Chain = tuple[Sequence[tuple[float, float, float]], float]

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


def zone(name: ZoneName, points: Tensor) -> Tensor:
    """Membership of points in a structure's zone, both sides.

    Parameters
    ----------
    name : {"ventricle", "medial_temporal", "deep_gray"}
        Structure.
    points : Tensor of shape (..., 3)
        Positions in MNI152 mm.

    Returns
    -------
    Tensor of shape (...)
        From 0 to 1, falling over 2 mm at the surface.
    """
    right = points.clone()
    right[..., 0] = right[..., 0].abs()
    return ((1 - distance_to_chains(ZONES[name], right)) / 2).clamp(0, 1)


def distance_to_chains(chains: Sequence[Chain], points: Tensor) -> Tensor:
    """Signed distance to the surface of a union of capsules.

    Parameters
    ----------
    chains : sequence of (points, radius)
        Polylines and their radii, in mm.
    points : Tensor of shape (..., 3)
        Positions in mm.

    Returns
    -------
    Tensor of shape (...)
        Millimetres, negative inside.
    """
    distance = torch.full(points.shape[:-1], float("inf"), device=points.device)
    for knots, radius in chains:
        corners = torch.tensor(knots, dtype=points.dtype, device=points.device)
        for start, end in pairwise(corners):
            along = end - start
            share = ((points - start) @ along / along.square().sum()).clamp(0, 1)
            gap = (points - start - share[..., None] * along).norm(dim=-1)
            distance = torch.minimum(distance, gap - radius)
    return distance
