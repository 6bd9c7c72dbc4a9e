"""Expected brightness in and around the template brain, in each contrast."""

__all__ = ["MODELLED", "HeadModel", "load_depth", "load_head_model"]

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brainfeat.preprocessing.resampling import downsample
from brainfeat.preprocessing.template import BRAIN_CENTER, load_template
from brainfeat.volume import Volume

# Typical brightness of white matter, grey matter, fluid, skull and scalp.
_BRIGHTNESS = {
    "T1w": (1.0, 0.7, 0.2, 0.05, 0.8),
    "T2w": (0.35, 0.5, 1.0, 0.03, 0.5),
    "FLAIR": (0.65, 0.8, 0.15, 0.03, 0.6),
}
MODELLED = tuple(_BRIGHTNESS)
"""Modalities that have a model."""

_FLUID, _SKULL = 2.0, 8.0  # mm from the brain to the outer face of each
_DEPTH_SPACING = 2.0  # mm
_BLUR = 0.4  # of the spacing, standard deviation

# Neck and face vary too much between subjects.
_NECK = -40.0  # mm of the template, z
_FACE = (20.0, 0.0)  # y and z


class HeadModel(NamedTuple):
    """Expected intensities at points in and around the template brain."""

    points: NDArray[np.float64]  # (n_points, 3), mm from `BRAIN_CENTER`
    brightness: NDArray[np.float64]  # (n_points,), of mean 0 and norm 1


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
def load_head_model(modality: str, spacing: float, reach: float) -> HeadModel:
    """Return points on a grid of `spacing` mm, a multiple of 2, in one of `MODELLED`.

    They end about `reach` mm outside the brain; up to 8 mm excludes the scalp, whose
    fat is bright or suppressed.
    """
    depth = load_depth()
    white, gray = (
        downsample(load_template(tissue), depth.geometry.spacing[0]).data
        for tissue in ("white_matter", "gray_matter")
    )
    is_fluid = depth.data >= -_FLUID
    is_skull = ~is_fluid & (depth.data >= -_SKULL)
    is_scalp = depth.data < -_SKULL
    total = np.maximum(white + gray, 1.0)
    white, gray = white / total * is_fluid, gray / total * is_fluid
    fractions = (white, gray, is_fluid - white - gray, is_skull, is_scalp)
    head = sum(
        np.float32(brightness) * fraction
        for brightness, fraction in zip(_BRIGHTNESS[modality], fractions, strict=True)
    )
    blurred = ndimage.gaussian_filter(head, _BLUR * spacing / depth.geometry.spacing[0])
    near = downsample(depth, spacing)
    affine = near.geometry.affine
    points = np.argwhere(np.ones(near.data.shape, bool)) @ affine[:3, :3].T
    points += affine[:3, 3]
    _, y, z = points.T
    is_known = (z >= _NECK) & ((y <= _FACE[0]) | (z >= _FACE[1]))
    outside = near.data.ravel()
    chosen = (outside >= -reach) & (is_known | (outside >= -_FLUID))
    values = downsample(Volume(blurred, depth.geometry), spacing).data.ravel()[chosen]
    values = values.astype(np.float64) - values.mean(dtype=np.float64)
    return HeadModel(
        _read_only(points[chosen] - np.array(BRAIN_CENTER)),
        _read_only(values / np.linalg.norm(values)),
    )


def _read_only(values: NDArray[np.float64]) -> NDArray[np.float64]:
    values.flags.writeable = False
    return values
