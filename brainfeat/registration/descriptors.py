"""Local structure around each voxel, described alike in all contrasts.

References
----------
.. [1] M. P. Heinrich et al., "Towards realtime multimodal fusion for image-guided
   interventions using self-similarities", MICCAI 2013.
"""

__all__ = ["N_CHANNELS", "describe"]

from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

# The six neighbours of a voxel, two steps apart in the cube around it.
_NEIGHBOURS = ((0, 1, 1), (1, 1, 0), (1, 0, 1), (1, 1, 2), (2, 1, 1), (1, 2, 1))
# Pairs of neighbours that are not opposite: their patches are compared.
_PAIRS = tuple(
    (a, b)
    for a, b in combinations(_NEIGHBOURS, 2)
    if sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) == 2
)
N_CHANNELS = len(_PAIRS)
_LOWEST = 1e-3  # local noise, relative to its mean


def describe(volume: Tensor, *, distance: int = 2, radius: int = 1) -> Tensor:
    """Compute self-similarities (12, I, J, K) of a volume (I, J, K) [1]_.

    Each channel compares the patches of two neighbours at a ``distance`` in voxels, in
    0 to 1, in units of the local noise. So brightness and contrast do not matter.
    """
    shape = volume.shape
    padded = F.pad(volume[None, None], (distance,) * 6, mode="replicate")[0, 0]

    def shifted(neighbour: tuple[int, int, int]) -> Tensor:
        i, j, k = (
            slice(distance * step, distance * step + size)
            for step, size in zip(neighbour, shape, strict=True)
        )
        return padded[i, j, k]

    differences = torch.stack([(shifted(a) - shifted(b)).square_() for a, b in _PAIRS])
    patches = _average(differences, radius)
    patches -= patches.amin(dim=0)
    noise = patches.mean(dim=0)
    lowest = max(_LOWEST * float(noise.mean()), torch.finfo(noise.dtype).tiny)
    noise.clamp_(min=lowest)
    return patches.div_(noise).neg_().exp_()


def _average(maps: Tensor, radius: int) -> Tensor:
    padded = F.pad(maps[None], (radius,) * 6, mode="replicate")
    return F.avg_pool3d(padded, 2 * radius + 1, stride=1)[0]
