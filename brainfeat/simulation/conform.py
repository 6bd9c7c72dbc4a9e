"""Volumes from files brought onto a lattice in template space."""

__all__ = ["conform_volumes", "match_boxes"]

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from brainfeat.exceptions import InputError
from brainfeat.simulation.lattice import Lattice

if TYPE_CHECKING:
    from brainfeat.volume import Volume

# Corners of the MNI152 2009a brain, in mm.
TEMPLATE_BOX = ((-70.0, -105.0, -70.0), (70.0, 71.0, 80.0))


def conform_volumes(
    volumes: Sequence["Volume"],
    lattice: Lattice,
    template_to_scanner: NDArray[np.float64] | None = None,
) -> Tensor:
    """Read volumes on a lattice, averaging within its voxels.

    Parameters
    ----------
    volumes : sequence of Volume
        Volumes on one grid; booleans are read as 0 and 1, what is not finite as 0.
    lattice : Lattice
        Voxels in template mm.
    template_to_scanner : ndarray of shape (4, 4), optional
        Maps template mm to the volumes' mm; by default these are the same.

    Returns
    -------
    Tensor of shape (n_volumes, I, J, K)
        Zero outside the volumes.

    Raises
    ------
    InputError
        If the volumes lie on different grids.
    """
    geometry = volumes[0].geometry
    for other in volumes[1:]:
        if not other.geometry.is_close(geometry):
            raise InputError(
                "expected volumes on one grid, got shapes "
                f"{geometry.shape} and {other.geometry.shape}, or different affines."
            )
    source = Lattice(geometry.shape, geometry.affine)
    to_scanner = np.eye(4) if template_to_scanner is None else template_to_scanner
    # Two samples along each axis hold all that coarser voxels need.
    factor = min(2, max(1, round(max(lattice.spacing))))
    fine = lattice.subdivided((factor, factor, factor))
    grid = fine.points(source.normalizer @ to_scanner)
    data = np.stack([volume.data for volume in volumes]).astype(np.float32)
    tensor = torch.from_numpy(np.nan_to_num(data, posinf=0.0, neginf=0.0))
    sampled = F.grid_sample(tensor[None], grid[None], align_corners=True)[0]
    return sampled if factor == 1 else F.avg_pool3d(sampled, factor)


def match_boxes(mask: "Volume") -> NDArray[np.float64]:
    """Match the box around a brain to the template brain's.

    Parameters
    ----------
    mask : Volume
        Brain, above zero inside; an oblique one needs a registration instead.

    Returns
    -------
    ndarray of shape (4, 4)
        Maps MNI152 mm to scanner mm.
    """
    inside = np.argwhere(mask.data > 0)
    corners = np.array([inside.min(0), inside.max(0)])
    affine = mask.geometry.affine
    ends = corners @ affine[:3, :3].T + affine[:3, 3]
    low, high = ends.min(0), ends.max(0)
    template_low, template_high = np.array(TEMPLATE_BOX)
    scale = (high - low) / (template_high - template_low)
    matrix = np.diag([*scale, 1.0])
    matrix[:3, 3] = low - scale * template_low
    return matrix
