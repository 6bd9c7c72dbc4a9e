"""Affine registration of a head to the MNI152 template.

A head model, with the template's tissues as bright as in a contrast and skull and
scalp around them, is fitted to the volume by correlation. Priors on brain size and head
pose regularise the fit [1]_: where a volume shows little of the brain's edge, the model
is not stretched over the scalp.

References
----------
.. [1] Ashburner et al., Incorporating prior knowledge into image registration.
   NeuroImage 6, 1997. doi:10.1006/nimg.1997.0299
"""

__all__ = ["DOUBTFUL_SIMILARITY", "Alignment", "align_to_template"]

import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation

from brainfeat.preprocessing.brain_search import find_center, find_starts
from brainfeat.preprocessing.foreground import find_head
from brainfeat.preprocessing.head_model import MODELLED, HeadModel, load_head_model
from brainfeat.preprocessing.resampling import downsample, reorient_to_ras, resample
from brainfeat.preprocessing.template import BRAIN_CENTER
from brainfeat.volume import Geometry, Volume

logger = logging.getLogger(__name__)

# Whole heads exceed it (examples/benchmarks/alignment.py); below it are parts of a
# head, mostly misaligned.
DOUBTFUL_SIMILARITY = 0.6

Affine = NDArray[np.float64]
Floats = NDArray[np.float64]

_COARSE, _FINE = 8.0, 4.0  # mm, edge of a voxel
_COARSE_BLUR, _FINE_BLUR = 4.0, 3.0  # mm, standard deviation
_COARSE_MODEL, _FINE_MODEL = (14.0, 14.0), (8.0, 8.0)  # spacing and reach in mm
_BIAS_WIDTH = 20.0  # mm, standard deviation of the local mean
# Voxels brighter than nearly all of the middle of a head are fat.
_MIDDLE, _BRIGHTEST_PERCENTILE = 36.0, 98.0  # mm

# Rotation vector and symmetric stretch (xx, xy, xz, yy, yz, zz) of the template. Heads
# nod more than they turn; adult brains have 1.4 of the template's 1.9 litres.
_USUAL = np.array([0.0, 0.0, 0.0, 0.9, 0.0, 0.0, 0.9, 0.0, 0.9])
_USUAL_SD = np.array([0.25, 0.12, 0.12, 0.08, 0.03, 0.03, 0.08, 0.03, 0.08])
_SYMMETRIC = np.array([[3, 4, 5], [4, 6, 7], [5, 7, 8]])  # stretch in the parameters
_UNIT = 50.0  # mm; scales shifts like the other parameters
# Effective number of independent points, of the thousands in the volume.
_COARSE_WEIGHT, _FINE_WEIGHT = 100.0, 300.0

_TINY = 1e-12  # avoids division by zero
_MIN_EXTENT = 100.0  # mm; a smaller volume shows too little of a brain
_SCALES = (0.6, 1.6)  # relative to the template; human brains are within
_MIN_SIMILARITY = 0.4  # smoothed noise reaches this


class Alignment(NamedTuple):
    """Where the template lies in a volume; only centred if `similarity` is NaN."""

    affine: Affine  # template mm to scanner mm
    rigid: Affine  # the rotation nearest to `affine`, about the brain's centre
    similarity: float  # correlation with the head model

    @property
    def is_registered(self) -> bool:
        """False if the template was only centred on the foreground."""
        return not math.isnan(self.similarity)


class _Match(NamedTuple):
    """Rotation (3), stretch (6) and shift in units (3), and the quality of the fit."""

    parameters: Floats
    similarity: float
    cost: float
    modality: str


def align_to_template(volume: Volume, modality: str | None = None) -> Alignment:
    """Register a head or a stripped brain of finite intensities to the MNI152 template.

    The result does not depend on the storage order of the axes. For a `modality`
    without a head model, the most similar model is used. Volumes of less than 100 mm or
    two voxels along an axis, and those without a plausible match, are only centred, and
    so are brains much smaller than an adult's.
    """
    volume = reorient_to_ras(volume)
    small = downsample(volume, _FINE)
    extent = np.array(volume.geometry.shape) * volume.geometry.spacing
    if extent.min() < _MIN_EXTENT or min(small.geometry.shape) < 2:
        logger.debug("Only centred: the volume measures %s mm.", extent.round(1))
        return _centre_only(small)
    fine = _without_outliers(small)
    middle = find_center(downsample(fine, _COARSE))
    # Centred at the origin, so that the scanner's origin does not matter.
    fine = _even_out(_shifted(fine, -middle))
    modalities = (modality,) if modality in MODELLED else MODELLED
    match = _search(downsample(fine, _COARSE), modalities)
    model = load_head_model(match.modality, *_FINE_MODEL)
    comparison = _Comparison(_Moving(fine, _FINE_BLUR), model, _FINE_WEIGHT)
    match = _fit(match.parameters, comparison, match.modality, tolerance=3e-4)
    linear = _to_linear(match.parameters)
    scale = np.cbrt(np.linalg.det(linear))
    if match.similarity < _MIN_SIMILARITY or not _SCALES[0] < scale < _SCALES[1]:
        logger.debug(
            "Only centred: correlation %.2f, scale %.2f.", match.similarity, scale
        )
        return _centre_only(small)
    center = middle + match.parameters[9:] * _UNIT
    rigid = _about_brain(_to_rotation(match.parameters), center)
    return Alignment(_about_brain(linear, center), rigid, match.similarity)


def _centre_only(volume: Volume) -> Alignment:
    affine = _about_brain(np.eye(3), find_center(volume))
    return Alignment(affine, affine, math.nan)


def _without_outliers(volume: Volume) -> Volume:
    """Clip outliers and scale intensities to 0 to 1."""
    low, high = np.percentile(volume.data, [0.1, 99.5]).astype(np.float32)
    data = np.clip(volume.data, low, high)
    return Volume((data - low) / max(high - low, _TINY), volume.geometry)


def _shifted(volume: Volume, shift: Floats) -> Volume:
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += shift
    return Volume(volume.data, Geometry(volume.geometry.shape, affine))


def _even_out(volume: Volume) -> Volume:
    """Divide by the local mean of the head, and clip voxels brighter than brain."""
    coarse = downsample(volume, _COARSE)
    head = find_head(coarse.data).astype(np.float32)
    sigmas = _BIAS_WIDTH / np.array(coarse.geometry.spacing)
    inside, around = (
        ndimage.gaussian_filter(data, sigmas, mode="constant", truncate=2.0)
        for data in (coarse.data * head, head)
    )
    overall = max(np.sum(coarse.data * head) / np.sum(head), _TINY)
    means = inside / np.maximum(around, 1e-3) / overall
    # Where nearly all is air, division would amplify noise.
    means = np.maximum(means, np.float32(0.2))
    coarse = Volume(means, coarse.geometry)
    bias = resample(coarse, volume.geometry, np.eye(4), outside=1.0)
    return _clip_brightest(Volume(volume.data / bias, volume.geometry))


def _clip_brightest(volume: Volume) -> Volume:
    """Clip intensities above those around the origin, the middle of the head."""
    middle = np.linalg.inv(volume.geometry.affine)[:3, 3]
    reach = _MIDDLE / np.array(volume.geometry.spacing)
    # In a rotated, mostly empty volume, the middle may be outside the grid.
    last = np.array(volume.geometry.shape) - 1
    start = np.clip(np.rint(middle - reach), 0, last).astype(int)
    stop = np.maximum(np.rint(middle + reach), start + 1).astype(int)
    brain = volume.data[tuple(map(slice, start, stop))]
    brightest = np.percentile(brain, _BRIGHTEST_PERCENTILE)
    return Volume(np.minimum(volume.data, np.float32(brightest)), volume.geometry)


def _search(volume: Volume, modalities: Sequence[str]) -> _Match:
    moving = _Moving(volume, _COARSE_BLUR)
    blurred = Volume(moving.data, volume.geometry)
    matches = []
    for modality in modalities:
        model = load_head_model(modality, *_COARSE_MODEL)
        comparison = _Comparison(moving, model, _COARSE_WEIGHT)
        for start in find_starts(blurred, model):
            parameters = _to_parameters(start)
            matches.append(_fit(parameters, comparison, modality, tolerance=1e-2))
    return min(matches, key=lambda match: match.cost)


class _Moving:
    """A blurred volume and its gradient, interpolated at points in millimetres."""

    def __init__(self, volume: Volume, blur: float) -> None:
        sigmas = blur / np.array(volume.geometry.spacing)
        self.data = ndimage.gaussian_filter(
            volume.data, sigmas, mode="nearest", truncate=2.5
        )
        self._slopes = np.gradient(self.data)
        self._to_voxel = np.linalg.inv(volume.geometry.affine)

    def sample(self, points: Floats) -> Floats:
        """Return values (n,) at points (n, 3) in mm."""
        return self._interpolate(self.data, points)

    def sample_slopes(self, points: Floats) -> Floats:
        """Return gradients (n, 3) per mm at points (n, 3) in mm."""
        # Central differences over two voxels are smoother than the derivative of the
        # linear interpolation, which jumps between voxels.
        slopes = [self._interpolate(slope, points) for slope in self._slopes]
        return np.stack(slopes, axis=1) @ self._to_voxel[:3, :3]

    def _interpolate(self, data: NDArray[Any], points: Floats) -> Floats:
        voxels = self._to_voxel[:3, :3] @ points.T + self._to_voxel[:3, 3:]
        values: Floats = ndimage.map_coordinates(
            data, voxels, np.float64, order=1, mode="nearest", prefilter=False
        )
        return values


class _Comparison:
    """Residuals of a head against its model, for least squares.

    They are the part of the head's variation that the model leaves unexplained, point
    by point, and the standard scores of rotation and stretch. `weight` is the effective
    number of independent points.
    """

    def __init__(self, moving: _Moving, model: HeadModel, weight: float) -> None:
        self._moving, self._model = moving, model
        self._factor = math.sqrt(weight)
        self._latest: tuple[Floats, Floats, float] | None = None

    def similarity(self, parameters: Floats) -> float:
        values, _ = self._sample(parameters)
        return float(self._model.brightness @ values)

    def residuals(self, parameters: Floats) -> Floats:
        values, _ = self._sample(parameters)
        brightness = self._model.brightness
        # A head with inverted contrast is no match.
        unexplained = values - max(float(brightness @ values), 0.0) * brightness
        scores = (parameters[:9] - _USUAL) / _USUAL_SD
        return np.concatenate([self._factor * unexplained, scores])

    def jacobian(self, parameters: Floats) -> Floats:
        values, norm = self._sample(parameters)
        slopes = self._moving.sample_slopes(self._transform(parameters))
        jacobian = np.zeros((len(values) + 9, 12))
        changes, scores = np.split(jacobian, [len(values)])
        by_linear = slopes[:, :, None] * self._model.points[:, None, :]
        turns = _linear_derivatives(parameters).reshape(9, 9)
        changes[:, :9] = by_linear.reshape(-1, 9) @ turns.T
        changes[:, 9:] = slopes * _UNIT
        # Project out changes of mean and norm, and what the model explains.
        brightness = self._model.brightness
        known = np.stack([np.ones_like(values), values, brightness])
        mean, along, explained = known @ changes
        similarity = float(brightness @ values)
        explained = (explained - similarity * along) * (similarity > 0.0)
        changes -= known.T @ np.stack([mean / len(values), along, explained])
        changes *= self._factor / norm
        scores[:, :9] = np.diag(1.0 / _USUAL_SD)
        return jacobian

    def _transform(self, parameters: Floats) -> Floats:
        return self._model.points @ _to_linear(parameters).T + parameters[9:] * _UNIT

    def _sample(self, parameters: Floats) -> tuple[Floats, float]:
        """Return values of mean 0 and norm 1, and their original norm."""
        # The latest are kept, since residuals and the Jacobian are computed in turn.
        if self._latest is None or not np.array_equal(self._latest[0], parameters):
            values = self._moving.sample(self._transform(parameters))
            values -= values.mean()
            norm = max(float(np.linalg.norm(values)), _TINY)
            self._latest = parameters.copy(), values / norm, norm
        return self._latest[1:]


def _fit(
    start: Floats, comparison: _Comparison, modality: str, *, tolerance: float
) -> _Match:
    result = optimize.least_squares(
        comparison.residuals,
        start,
        comparison.jacobian,
        method="lm",
        xtol=tolerance,
        ftol=tolerance,
        max_nfev=30,
    )
    return _Match(result.x, comparison.similarity(result.x), result.cost, modality)


def _to_parameters(start: Affine) -> Floats:
    scale = np.cbrt(np.linalg.det(start[:3, :3]))
    rotation = Rotation.from_matrix(start[:3, :3] / scale).as_rotvec()
    stretch = scale * np.eye(3)[np.triu_indices(3)]
    return np.concatenate([rotation, stretch, start[:3, 3] / _UNIT])


def _to_linear(parameters: Floats) -> Floats:
    return np.asarray(_to_rotation(parameters) @ parameters[_SYMMETRIC])


def _to_rotation(parameters: Floats) -> Floats:
    return np.asarray(Rotation.from_rotvec(parameters[:3]).as_matrix())


def _linear_derivatives(parameters: Floats) -> Floats:
    """Return derivatives of the linear part by rotation and stretch: (9, 3, 3)."""
    step = 1e-5
    steps = step * np.concatenate([np.eye(3), -np.eye(3)])
    moved = Rotation.from_rotvec(parameters[:3] + steps)
    ahead, behind = np.split(moved.as_matrix(), 2)
    by_rotation = (ahead - behind) / (2.0 * step) @ parameters[_SYMMETRIC]
    stretches = np.arange(3, 9)[:, None, None] == _SYMMETRIC
    by_stretch = _to_rotation(parameters) @ stretches
    return np.concatenate([by_rotation, by_stretch])


def _about_brain(linear: Floats, center: Floats) -> Affine:
    """Return the affine that maps the template brain's centre to `center`."""
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = center - linear @ np.array(BRAIN_CENTER)
    return affine
