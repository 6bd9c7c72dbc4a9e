"""Affine registration of the brain in a head to the MNI152 template.

The brain is found first, by a network that knows heads of every contrast. Its outline
gives the size of the template and most of the pose; the tissues inside, whatever their
brightness, give the rest. Skull and scalp have no part in it.
"""

__all__ = ["Alignment", "align_to_template"]

import logging
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from brainfeat.preprocessing.brain_search import FoundBrain, find_brain, find_center
from brainfeat.preprocessing.head_model import load_brain_model
from brainfeat.preprocessing.registration import (
    Match,
    Moving,
    register,
    to_linear,
    to_parameters,
    to_rotation,
)
from brainfeat.preprocessing.resampling import downsample, reorient_to_ras
from brainfeat.preprocessing.template import BRAIN_CENTER
from brainfeat.volume import Geometry, Volume

logger = logging.getLogger(__name__)

Affine = NDArray[np.float64]
Floats = NDArray[np.float64]

_SPACING = 4.0  # mm, edge of a voxel
_BLUR = 3.0  # mm, standard deviation
_MODELS = ((12.0, 12.0), (8.0, 14.0))  # spacing and reach in mm
_MIN_EXTENT = 100.0  # mm; a smaller volume shows too little of a brain
_SCALES = (0.6, 1.6)  # relative to the template; human brains are within
_MIN_SIMILARITY = 0.4  # smoothed noise reaches this


class Alignment(NamedTuple):
    """Where the template lies in a volume; only centred if `similarity` is NaN."""

    affine: Affine  # template mm to scanner mm
    rigid: Affine  # the rotation nearest to `affine`, about the brain's centre
    similarity: float  # correlation of the brain with the template's tissues
    brain: FoundBrain | None = None

    @property
    def is_registered(self) -> bool:
        """False if the template was only centred on the foreground."""
        return not math.isnan(self.similarity)

    @property
    def scale(self) -> float:
        """Edge of the template in the volume, relative to its own."""
        return float(np.cbrt(np.linalg.det(self.affine[:3, :3])))


def align_to_template(volume: Volume) -> Alignment:
    """Register a head or a stripped brain of finite intensities to the MNI152 template.

    The result does not depend on the storage order of the axes, nor on the contrast.
    Volumes of less than 100 mm or two voxels along an axis, and those without a
    plausible match, are only centred, and so are brains much smaller than an adult's.
    """
    volume = reorient_to_ras(volume)
    small = downsample(volume, _SPACING)
    extent = np.array(volume.geometry.shape) * volume.geometry.spacing
    if extent.min() < _MIN_EXTENT or min(small.geometry.shape) < 2:
        logger.debug("Only centred: the volume measures %s mm.", extent.round(1))
        return _centre_only(small)
    brain = find_brain(volume, small)
    if brain is None:
        logger.debug("Only centred: no brain was found.")
        return _centre_only(small)
    middle = brain.center
    match = _register(brain, middle)
    linear = to_linear(match.parameters)
    scale = np.cbrt(np.linalg.det(linear))
    if match.similarity < _MIN_SIMILARITY or not _SCALES[0] < scale < _SCALES[1]:
        logger.debug(
            "Only centred: correlation %.2f, scale %.2f.", match.similarity, scale
        )
        return _centre_only(small)
    center = middle + match.shift
    rigid = _about_brain(to_rotation(match.parameters), center)
    affine = _about_brain(linear, center)
    return Alignment(affine, rigid, match.similarity, brain)


def _centre_only(volume: Volume) -> Alignment:
    affine = _about_brain(np.eye(3), find_center(volume))
    return Alignment(affine, affine, math.nan)


def _register(brain: FoundBrain, middle: Floats) -> Match:
    # Centred at the origin, so that the scanner's origin does not matter.
    fraction, tissue, view = (
        _shifted(volume, -middle)
        for volume in (brain.fraction, brain.tissue, brain.in_view)
    )
    moving = Moving(fraction, tissue, _BLUR, view)
    pose = brain.pose
    center = pose[:3, :3] @ np.array(BRAIN_CENTER) + pose[:3, 3]
    start = to_parameters(pose[:3, :3], center - middle)
    models = [load_brain_model(*model) for model in _MODELS]
    return register(start, moving, models)


def _shifted(volume: Volume, shift: Floats) -> Volume:
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += shift
    return Volume(volume.data, Geometry(volume.geometry.shape, affine))


def _about_brain(linear: Floats, center: Floats) -> Affine:
    """Return the affine that maps the template brain's centre to `center`."""
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = center - linear @ np.array(BRAIN_CENTER)
    return affine
