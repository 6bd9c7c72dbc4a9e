"""How far inside or outside the template brain a place lies."""

__all__ = ["load_depth"]

from functools import cache

import numpy as np
from scipy import ndimage

from brainfeat.preprocessing.resampling import to_shrunk
from brainfeat.preprocessing.template import load_template
from brainfeat.volume import Volume

_SPACING = 2.0


@cache
def load_depth() -> Volume:
    """Load the distance to the surface of the template brain.

    Returns
    -------
    Volume
        Millimetres at 2 mm, float32: positive inside the brain, negative outside.
    """
    brain = to_shrunk(load_template("T1w"), _SPACING)
    inside = brain.data > 0
    distance = ndimage.distance_transform_edt
    # The surface runs between the voxels, half an edge from their middles.
    voxels = np.where(inside, distance(inside) - 0.5, 0.5 - distance(~inside))
    return Volume((_SPACING * voxels).astype(np.float32), brain.geometry)
