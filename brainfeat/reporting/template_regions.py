"""A coarse atlas of MNI152 that needs no download."""

__all__ = ["template_regions"]

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainfeat.io.volumes import to_image
from brainfeat.simulation.anatomy import BRAIN_CLASSES
from brainfeat.simulation.bases import load_base
from brainfeat.volume import Geometry, Volume

_SPACING = 2.0  # mm
_STRUCTURES = ("medial_temporal", "ventricle", "deep_gray")
# Planes that divide the rest of the brain, MNI152 mm: y, then z.
_ANTERIOR_FROM, _POSTERIOR_TO, _SUPERIOR_FROM = 10.0, -40.0, 10.0


@cache
def template_regions() -> dict[str, Any]:
    """Divide the brain of MNI152 into 18 regions, in the form of nilearn's atlases.

    Medial temporal lobes, ventricles and deep grey matter come from the template's
    tissue maps. The rest is divided by planes and named by its position. For published
    results, use an atlas that anatomists drew.

    >>> atlas = template_regions()
    >>> atlas["lut"]["name"].tolist()[:3]
    ['medial_temporal_l', 'medial_temporal_r', 'ventricle_l']
    """
    base = load_base(spacing=_SPACING)
    classes = base.labels.numpy()  # 0, or 1 + index in BRAIN_CLASSES
    x, y, z = _coordinates(Geometry(base.lattice.shape, base.lattice.affine))
    sides = {"l": x < 0, "r": x >= 0}
    parts: dict[str, NDArray[np.bool_]] = {}
    structures = np.zeros(classes.shape, dtype=bool)
    for name in _STRUCTURES:
        structure = classes == 1 + BRAIN_CLASSES.index(name)
        structures |= structure
        parts |= {f"{name}_{side}": structure & here for side, here in sides.items()}
    rest = (classes > 0) & ~structures
    depths = {
        "anterior": y > _ANTERIOR_FROM,
        "middle": (y <= _ANTERIOR_FROM) & (y > _POSTERIOR_TO),
        "posterior": y <= _POSTERIOR_TO,
    }
    heights = {"superior": z > _SUPERIOR_FROM, "inferior": z <= _SUPERIOR_FROM}
    for depth, in_depth in depths.items():
        for height, in_height in heights.items():
            block = rest & in_depth & in_height
            name = f"{depth}_{height}"
            parts |= {f"{name}_{side}": block & here for side, here in sides.items()}
    labels = np.zeros(classes.shape, dtype=np.uint8)
    for index, part in enumerate(parts.values(), start=1):
        labels[part] = index
    table = pd.DataFrame({"index": range(1, len(parts) + 1), "name": list(parts)})
    volume = Volume(labels, Geometry(base.lattice.shape, base.lattice.affine))
    return {"maps": to_image(volume), "lut": table}


def _coordinates(geometry: Geometry) -> NDArray[np.float64]:
    """Return MNI152 millimetres of the voxels, of shape (3, I, J, K)."""
    linear, voxels = geometry.affine[:3, :3], np.indices(geometry.shape)
    millimetres = np.einsum("ab,bijk->aijk", linear, voxels)
    return np.asarray(millimetres + geometry.affine[:3, 3, None, None, None])
