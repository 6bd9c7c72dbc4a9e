"""Where a brain lies: affine registration of a head to the MNI152 template.

The template is moved over the volume, coarse to fine, by maximising Mattes' mutual
information [1]_ inside the dilated mask of the template brain. Mutual information
makes no assumption on the contrast, so that T1w, T2w and FLAIR volumes are aligned
alike; the mask leaves out neck, face and most of the scalp, so that full heads and
stripped brains are aligned alike.

References
----------
.. [1] Mattes et al., PET-CT image registration in the chest using free-form
   deformations. IEEE Transactions on Medical Imaging 22, 2003.
   doi:10.1109/TMI.2003.809072
"""

__all__ = ["Alignment", "align_to_template"]

import logging
import math
from functools import cache
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from brainfeat.brain_depth import load_depth
from brainfeat.brain_search import BRAIN_CENTER, find_center, find_starts
from brainfeat.foreground import find_flat_background
from brainfeat.resampling import run_on_one_thread, to_closest_ras, to_shrunk, to_sitk
from brainfeat.template import load_template
from brainfeat.volume import Volume

logger = logging.getLogger(__name__)

Affine = NDArray[np.float64]
_Transform = sitk.Similarity3DTransform | sitk.AffineTransform

# All lengths are divided by this one during registration: a step of the optimiser
# then moves the brain about as far by translation as by rotation or scaling, and
# needs no scales.
_UNIT = 50.0
_N_BINS = 32
_N_STARTS = 1  # of each size
# A blurred start: without it, one in forty FLAIR heads ends in a wrong maximum.
_COARSE_BLUR = 5.0  # mm, standard deviation

_MIN_EXTENT = 100.0  # mm; less than this holds too little of a brain
_SCALES = (0.6, 1.6)  # of the template; beyond these it is not a human brain
# With 1.9 litres the template is larger than nearly all brains: a match that makes
# it larger still has taken the scalp of a T2w or FLAIR head for the brain's edge.
_LARGEST_SCALE = 1.05

# Skull and cerebrospinal fluid around the template brain, which has neither. They
# hold the edge of the brain in place in every contrast.
_RIM_OF_FLUID, _MASK_MARGIN = 3.0, 3.0  # mm
_FLUID = 40.0  # intensity, on the template's scale of 0 to 255


class Alignment(NamedTuple):
    """Where the template lies in a volume.

    Attributes
    ----------
    affine : ndarray of shape (4, 4)
        Maps template millimetres to scanner millimetres.
    rigid : ndarray of shape (4, 4)
        The rotation nearest to `affine`, with the brain's centre at the same place.
    similarity : float
        Mutual information in nats; NaN if the volume could not be registered and the
        template was only centred on its foreground.
    """

    affine: Affine
    rigid: Affine
    similarity: float

    @property
    def is_registered(self) -> bool:
        """Whether more than the centre of the foreground was found."""
        return not math.isnan(self.similarity)


class _Fixed(NamedTuple):
    """The template on a coarse grid, and where a volume is compared with it."""

    template: sitk.Image
    mask: sitk.Image


def align_to_template(volume: Volume) -> Alignment:
    """Register a head or a stripped brain to the MNI152 template.

    The result is deterministic, and does not depend on the order in which the
    volume's axes are stored.

    Parameters
    ----------
    volume : Volume
        Finite intensities of any contrast.

    Returns
    -------
    Alignment
        Volumes of less than 100 mm along an axis, and those without a likely match,
        are only centred: `affine` and `rigid` are then the same translation.
    """
    volume = to_closest_ras(volume)
    extent = np.array(volume.geometry.shape) * volume.geometry.spacing
    if extent.min() < _MIN_EXTENT:
        logger.debug("Only centred: the volume measures %s mm.", extent.round(1))
        return _centre_only(volume)
    small = to_shrunk(volume, 2.0)
    fine = _with_dark_background(to_shrunk(small, 4.0))
    coarse = _with_dark_background(to_shrunk(small, 6.0))
    try:
        affine, similarity = _register(coarse, fine)
    except RuntimeError as error:  # of SimpleITK, when too few points overlap
        logger.debug("Only centred: %s", error)
        return _centre_only(volume)
    scale = np.cbrt(np.linalg.det(affine[:3, :3]))
    if not _SCALES[0] < scale < _SCALES[1]:
        logger.debug("Only centred: the best match has a scale of %.2f.", scale)
        return _centre_only(volume)
    affine = _scale_about_brain(affine, min(_LARGEST_SCALE / scale, 1.0))
    return Alignment(affine, _rigid_part(affine), similarity)


def _centre_only(volume: Volume) -> Alignment:
    affine = np.eye(4)
    affine[:3, 3] = find_center(to_shrunk(volume, 4.0)) - np.array(BRAIN_CENTER)
    return Alignment(affine, affine, math.nan)


def _with_dark_background(volume: Volume) -> Volume:
    """Clip outliers, and lower a flat background that lies amid the intensities."""
    low, high = np.percentile(volume.data, [0.1, 99.5]).astype(np.float32)
    data = np.clip(volume.data, low, high)
    background = find_flat_background(data)
    if background is not None and background > low:
        data = np.where(data == background, low, data)
    return Volume(data, volume.geometry)


def _register(coarse: Volume, fine: Volume) -> tuple[Affine, float]:
    fixed = _load_fixed(8.0, _COARSE_BLUR)
    moving = to_sitk(_blur(coarse, _COARSE_BLUR), unit=_UNIT)
    candidates = []
    for start in find_starts(coarse, _N_STARTS):
        similarity = _place(sitk.Similarity3DTransform(), start)
        score = _optimise(similarity, fixed, moving, first_step=8.0, last_step=0.5)
        candidates.append((score, similarity))
    _, best = max(candidates, key=lambda candidate: candidate[0])
    affine = _place(sitk.AffineTransform(3), _to_matrix(best))
    _optimise(affine, fixed, moving, first_step=4.0, last_step=0.5)
    fixed, moving = _load_fixed(6.0, 0.0), to_sitk(fine, unit=_UNIT)
    score = _optimise(affine, fixed, moving, first_step=1.0, last_step=0.1)
    return _to_matrix(affine), score


def _optimise(
    transform: _Transform,
    fixed: _Fixed,
    moving: sitk.Image,
    *,
    first_step: float,
    last_step: float,
) -> float:
    """Improve `transform` in place; return the mutual information reached.

    Steps are the distances in millimetres that the optimiser moves the template by,
    at first and when it stops.
    """
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(_N_BINS)
    method.SetMetricFixedMask(fixed.mask)
    # Gradients of the template are filtered by default, and then not used.
    method.SetMetricUseFixedImageGradientFilter(False)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=first_step / _UNIT,
        minStep=last_step / _UNIT,
        numberOfIterations=50,
        relaxationFactor=0.7,
        gradientMagnitudeTolerance=1e-8,
    )
    method.SetInitialTransform(transform, inPlace=True)
    run_on_one_thread(method, fixed.template, moving)
    return -float(method.GetMetricValue())


@cache
def _load_fixed(spacing: float, blur: float) -> _Fixed:
    """Load the template with its rim of fluid, and the mask to compare it in."""
    depth = load_depth()
    brain = to_shrunk(load_template("T1w"), depth.geometry.spacing[0])
    is_rim = (depth.data < 0) & (depth.data >= -_RIM_OF_FLUID)
    rimmed = np.where(is_rim, np.float32(_FLUID), brain.data)
    template = to_shrunk(_blur(Volume(rimmed, brain.geometry), blur), spacing)
    near = (depth.data >= -_MASK_MARGIN).astype(np.float32)
    share = to_shrunk(Volume(near, depth.geometry), spacing)
    mask = Volume(share.data >= 0.5, share.geometry)
    # Each step visits all voxels of the template: none that the mask leaves out.
    box = ndimage.find_objects(mask.data.view(np.uint8))[0]
    return _Fixed(to_sitk(template, unit=_UNIT)[box], to_sitk(mask, unit=_UNIT)[box])


def _blur(volume: Volume, sigma: float) -> Volume:
    sigmas = sigma / np.array(volume.geometry.spacing)
    data = ndimage.gaussian_filter(volume.data, sigmas, mode="nearest")
    return Volume(data, volume.geometry)


def _place(transform: _Transform, matrix: Affine) -> _Transform:
    center = np.array(BRAIN_CENTER)
    moved = matrix[:3, :3] @ center + matrix[:3, 3]
    transform.SetCenter((center / _UNIT).tolist())
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(((moved - center) / _UNIT).tolist())
    return transform


def _to_matrix(transform: _Transform) -> Affine:
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    matrix[:3, 3] = np.array(transform.TransformPoint((0.0, 0.0, 0.0))) * _UNIT
    return matrix


def _rigid_part(affine: Affine) -> Affine:
    left, _, right = np.linalg.svd(affine[:3, :3])
    return _about_brain(affine, left @ right)


def _scale_about_brain(affine: Affine, factor: float) -> Affine:
    return _about_brain(affine, affine[:3, :3] * factor)


def _about_brain(affine: Affine, linear: Affine) -> Affine:
    """Exchange the linear part, and keep the brain's centre where it is."""
    center = np.array(BRAIN_CENTER)
    changed = np.eye(4)
    changed[:3, :3] = linear
    changed[:3, 3] = affine[:3, :3] @ center + affine[:3, 3] - linear @ center
    return changed
