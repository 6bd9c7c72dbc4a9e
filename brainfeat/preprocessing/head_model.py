"""The template's brain and tissues, as a registration needs them."""

__all__ = ["BrainModel", "load_brain_model", "load_depth"]

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brainfeat.preprocessing.resampling import downsample
from brainfeat.preprocessing.template import BRAIN_CENTER, load_template
from brainfeat.volume import Volume

Floats = NDArray[np.float64]

_DEPTH_SPACING = 2.0  # mm
_BLUR = 0.4  # of the spacing, standard deviation


class BrainModel(NamedTuple):
    """What to expect at points in and around the template brain, in any contrast."""

    points: Floats  # (n_points, 3), mm from `BRAIN_CENTER`
    inside: Floats  # (n_points,), fraction that is brain
    tissues: Floats  # (n_points, 4), orthonormal; spans all brightness of the tissues


@cache
def load_depth() -> Volume:
    """Return the distance from the template brain's surface in mm, negative outside."""
    brain = downsample(load_template("T1w"), _DEPTH_SPACING)
    inside = brain.data > 0
    distance = ndimage.distance_transform_edt
    # The surface runs between voxels, half an edge from their centres.
    voxels = np.where(inside, distance(inside) - 0.5, 0.5 - distance(~inside))
    return Volume((_DEPTH_SPACING * voxels).astype(np.float32), brain.geometry)


@cache
def load_brain_model(spacing: float, reach: float) -> BrainModel:
    """Return points on a grid of `spacing` mm, up to `reach` mm outside the brain.

    The tissues are white matter, grey matter and fluid, and what surrounds a brain that
    is cut out. Their brightness is free: every contrast is a sum of the four.
    """
    depth = load_depth()
    white, gray = (
        downsample(load_template(tissue), _DEPTH_SPACING).data
        for tissue in ("white_matter", "gray_matter")
    )
    mask = load_template("brain_mask")
    whole = Volume(mask.data.astype(np.float32), mask.geometry)
    brain = downsample(whole, _DEPTH_SPACING).data
    total = np.maximum(white + gray, 1.0)
    maps = [brain, white / total * brain, gray / total * brain]
    blur = _BLUR * spacing / _DEPTH_SPACING
    near = downsample(depth, spacing)
    affine = near.geometry.affine
    points = np.argwhere(np.ones(near.data.shape, bool)) @ affine[:3, :3].T
    chosen = near.data.ravel() >= -reach
    values = [
        downsample(
            Volume(ndimage.gaussian_filter(tissue, blur), depth.geometry), spacing
        ).data.ravel()[chosen]
        for tissue in maps
    ]
    columns = np.stack([np.ones_like(values[0]), *values], axis=1)
    tissues, _ = np.linalg.qr(columns.astype(np.float64))
    return BrainModel(
        _read_only(points[chosen] + affine[:3, 3] - np.array(BRAIN_CENTER)),
        _read_only(values[0].astype(np.float64)),
        _read_only(tissues),
    )


def _read_only(values: Floats) -> Floats:
    values.flags.writeable = False
    return values
