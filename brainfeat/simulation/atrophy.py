"""Growth and shrinkage of single structures, by prescribed change of volume.

Each mode is a velocity field whose divergence is one in a structure and
balanced around it, so that the neighbours give way and the rest of the head
stays where it is.  A coefficient is the log of the structure's volume change.
"""

__all__ = ["MODES", "structure_modes"]

from collections.abc import Mapping

import torch
from torch import Tensor

from brainfeat.simulation.lattice import Lattice
from brainfeat.simulation.smoothing import smooth
from brainfeat.simulation.vector_fields import solve_divergence

# Each mode: the structure, the side of it (-1 left, 1 right, 0 both), and the
# distance over which the surroundings make room, in mm.
MODES: dict[str, tuple[str, int, float]] = {
    "ventricle_left": ("ventricle", -1, 14.0),
    "ventricle_right": ("ventricle", 1, 14.0),
    "medial_temporal_left": ("medial_temporal", -1, 7.0),
    "medial_temporal_right": ("medial_temporal", 1, 7.0),
    "gray_matter": ("gray_matter", 0, 6.0),
}


def structure_modes(structures: Mapping[str, Tensor], lattice: Lattice) -> Tensor:
    """Velocity fields that grow one structure each.

    Parameters
    ----------
    structures : mapping of str to Tensor of shape (I, J, K)
        Share of each voxel that each part of the brain fills.
    lattice : Lattice
        Where they are given, in MNI152 mm.

    Returns
    -------
    Tensor of shape (n_modes, 3, I, J, K)
        Velocities in mm of the map from a subject to the base, in the order of
        `MODES`; with a coefficient ``c``, a structure's volume grows about
        ``exp(c)``-fold.
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
    # The map leads back to the base, so it must shrink what is to grow.
    return -solve_divergence(divergence / gain, lattice)
