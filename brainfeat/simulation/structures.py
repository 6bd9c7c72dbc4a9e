"""Deep structures of a brain, cut out of its tissues by where they lie."""

__all__ = ["split_structures"]

import torch
from torch import Tensor

from brainfeat.simulation.landmarks import zone
from brainfeat.simulation.lattice import Lattice, refine
from brainfeat.simulation.tissue import TissueFractions


def split_structures(
    fractions: TissueFractions, lattice: Lattice, *, deep_gain: float
) -> dict[str, Tensor]:
    """Divide tissues into structures.

    Parameters
    ----------
    fractions : TissueFractions
        Shares of each voxel, of shape (I, J, K) each.
    lattice : Lattice
        Its voxels in MNI152 mm.
    deep_gain : float
        Deep grey matter per unit of what passes for grey in its zone.

    Returns
    -------
    dict of str to Tensor of shape (I, J, K)
        Shares of ``"csf"``, ``"gray_matter"``, ``"white_matter"``, ``"ventricle"``,
        ``"medial_temporal"`` and ``"deep_gray"``; their sum is that of the tissues.
    """
    # Zones are smooth and generous, so they may be coarse.
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
