"""Least-squares registration of the template's brain to a brain that was found.

Two images are compared at points in and around the template brain. The fraction of
brain is to equal the template's; the intensities are to be explained by the template's
tissues, however bright these are in the contrast. Priors on brain size and head pose
regularise the fit [1]_.

References
----------
.. [1] Ashburner et al., Incorporating prior knowledge into image registration.
   NeuroImage 6, 1997. doi:10.1006/nimg.1997.0299
"""

__all__ = ["Match", "Moving", "register", "to_linear", "to_parameters", "to_rotation"]

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from brainfeat.preprocessing.head_model import BrainModel
from brainfeat.preprocessing.smoothing import smooth_axis
from brainfeat.volume import Volume

Affine = NDArray[np.float64]
Floats = NDArray[np.float64]

# Rotation vector and symmetric stretch (xx, xy, xz, yy, yz, zz) of the template. Heads
# nod more than they turn; adult brains have 1.4 of the template's 1.9 litres.
_USUAL = np.array([0.0, 0.0, 0.0, 0.93, 0.0, 0.0, 0.93, 0.0, 0.93])
_USUAL_SD = np.array([0.3, 0.15, 0.15, 0.12, 0.03, 0.03, 0.12, 0.03, 0.12])
_SYMMETRIC = np.array([[3, 4, 5], [4, 6, 7], [5, 7, 8]])  # stretch in the parameters
_UNIT = 50.0  # mm; scales shifts like the other parameters
# Effective number of independent points, of the thousands in the volume.
# What is inside the brain is the same with and without a skull, its outline differs.
_FRACTION_WEIGHT, _TISSUE_WEIGHT = 1000.0, 1000.0
_DAMPING = 1e-2  # relative to the diagonal, of the first step
_MAX_STEPS = 12
_TOLERANCE = 2e-3  # a tenth of a millimetre
_TINY = 1e-12  # avoids division by zero
_TRUNCATE = 2.5  # of the blur, in standard deviations
# A vector times this is the matrix of its cross product.
_SKEW = np.cross(np.eye(3)[:, None], np.eye(3)).transpose(0, 2, 1)
_CORNERS = np.argwhere(np.ones((2, 2, 2), bool))


class Match(NamedTuple):
    """Rotation (3), stretch (6) and shift in units (3), and the quality of the fit."""

    parameters: Floats
    similarity: float  # multiple correlation of intensities with the tissues
    cost: float

    @property
    def shift(self) -> Floats:
        """Millimetres."""
        return self.parameters[9:] * _UNIT


class _Sampled(NamedTuple):
    """Values (n,), and gradients (n, 3) per mm."""

    values: Floats
    slopes: Floats


class Moving:
    """A brain on one grid, blurred, with its gradients: its fraction and its tissue."""

    def __init__(
        self, fraction: Volume, tissue: Volume, blur: float, view: Volume | None = None
    ) -> None:
        self._view = view  # voxels in the field of view; all if None
        fields: list[NDArray[np.float32]] = []
        for volume in (fraction, tissue):
            data = np.ascontiguousarray(volume.data, dtype=np.float32)
            for axis, spacing in enumerate(volume.geometry.spacing):
                data = smooth_axis(data, blur / spacing, axis, _TRUNCATE)
            # Central differences over two voxels are smoother than the derivative of
            # the linear interpolation, which jumps between voxels.
            fields += [data, *np.gradient(data)]
        self._fields = [field.ravel() for field in fields]
        self._last = np.array(fraction.data.shape)[:, None] - 1
        self._to_voxel = np.linalg.inv(fraction.geometry.affine)

    def sample(self, points: Floats) -> tuple[_Sampled, _Sampled]:
        """Return fraction and tissue at points (n, 3) in mm."""
        voxels = self._to_voxel[:3, :3] @ points.T + self._to_voxel[:3, 3:]
        fields = self._interpolate(voxels)
        fraction, tissue = (
            _Sampled(values, np.stack(slopes, axis=1) @ self._to_voxel[:3, :3])
            for values, *slopes in (fields[:4], fields[4:])
        )
        return fraction, tissue

    def is_in_view(self, points: Floats) -> NDArray[np.bool_]:
        """Return whether points (n, 3) in mm are in the field of view."""
        if self._view is None:
            return np.ones(len(points), dtype=bool)
        to_voxel = np.linalg.inv(self._view.geometry.affine)
        voxels = to_voxel[:3, :3] @ points.T + to_voxel[:3, 3:]
        indices = np.rint(voxels).astype(np.intp)
        last = np.array(self._view.geometry.shape)[:, None] - 1
        is_inside = ((indices >= 0) & (indices <= last)).all(axis=0)
        i, j, k = indices.clip(0, last)
        return np.asarray(is_inside & self._view.data[i, j, k])

    def _interpolate(self, voxels: Floats) -> list[Floats]:
        """Interpolate each field linearly, three times as fast as SciPy."""
        inside = voxels.clip(0.0, self._last)
        first = np.minimum(inside.astype(np.intp), np.maximum(self._last - 1, 0))
        i, j, k = (inside - first).astype(np.float32)
        _, n_j, n_k = (self._last[:, 0] + 1).tolist()
        steps = np.array([n_j * n_k, n_k, 1]) * (self._last[:, 0] > 0)
        corners = _CORNERS @ steps
        near = corners[:, None] + steps @ first
        samples = []
        for field in self._fields:
            values = field.take(near)
            for fraction, half in ((i, 4), (j, 2), (k, 1)):
                values[:half] += fraction * (values[half:] - values[:half])
                values = values[:half]
            samples.append(values[0].astype(np.float64))
        return samples


class _Compared(NamedTuple):
    """Samples of both images at the model's points, and how well they match."""

    match: Match
    in_view: NDArray[np.bool_]
    difference: Floats  # of the fractions of brain
    values: Floats  # of the tissue, of mean 0 and norm 1
    norm: float  # of the tissue before
    slopes: tuple[Floats, Floats]  # of fraction and tissue


class _Comparison:
    """Squared residuals of fraction and tissue, and standard scores of the pose."""

    def __init__(self, moving: Moving, model: BrainModel) -> None:
        self._moving, self._model = moving, model
        self._fraction_weight = _FRACTION_WEIGHT / float(np.sum(model.inside**2))

    def compare(self, parameters: Floats) -> _Compared:
        """Sample both images, and return what they cost."""
        points = self._transform(parameters)
        in_view = self._moving.is_in_view(points)
        fraction, tissue = self._moving.sample(points)
        difference = (fraction.values - self._model.inside) * in_view
        values, norm = _normalise(tissue.values)
        explained = float(np.sum((self._model.tissues.T @ values) ** 2))
        scores = (parameters[:9] - _USUAL) / _USUAL_SD
        cost = self._fraction_weight * float(difference @ difference)
        cost += _TISSUE_WEIGHT * (1.0 - explained) + float(scores @ scores)
        match = Match(parameters, math.sqrt(explained), cost)
        slopes = fraction.slopes, tissue.slopes
        return _Compared(match, in_view, difference, values, norm, slopes)

    def growth(self, parameters: Floats) -> float:
        """Return the factor of the edges that gives the template the brain's volume."""
        missing = self.compare(parameters).difference.sum()
        return float(np.cbrt(1.0 + missing / self._model.inside.sum()))

    def linearise(self, compared: _Compared) -> tuple[Floats, Floats]:
        """Return half the gradient of the cost, and the Gauss-Newton matrix."""
        match, in_view, difference, values, norm, (edges, slopes) = compared
        parameters = match.parameters
        changes = self._derivatives(edges)
        # Outside the field of view, nothing is known of the brain.
        changes *= in_view[:, None]
        gradient = self._fraction_weight * (difference @ changes)
        matrix = self._fraction_weight * (changes.T @ changes)
        changes = self._derivatives(slopes)
        tissues = self._model.tissues
        loads = tissues.T @ values
        known, along = tissues.T @ changes, values @ changes
        # Changes of the norm are no residual, nor is what the tissues explain.
        explained = known - np.outer(loads, along)
        left = changes.T @ changes - np.outer(along, along)
        weight = _TISSUE_WEIGHT / norm**2
        gradient -= weight * norm * (loads @ explained)
        matrix += weight * (left - explained.T @ explained)
        turns = _affine_derivatives(parameters)
        gradient, matrix = turns @ gradient, turns @ matrix @ turns.T
        gradient[:9] += (parameters[:9] - _USUAL) / _USUAL_SD**2
        matrix[np.arange(9), np.arange(9)] += 1.0 / _USUAL_SD**2
        return gradient, matrix

    def _derivatives(self, slopes: Floats) -> Floats:
        """Return the changes with each entry of the affine: (n, 12)."""
        by_linear = slopes[:, :, None] * self._model.points[:, None, :]
        return np.hstack([by_linear.reshape(-1, 9), slopes])

    def _transform(self, parameters: Floats) -> Floats:
        return self._model.points @ to_linear(parameters).T + parameters[9:] * _UNIT


def register(start: Floats, moving: Moving, models: Sequence[BrainModel]) -> Match:
    """Fit the pose and size of the template brain, from parameters close to them.

    The models are fitted in turn, the coarsest first. Brains differ in shape, which
    makes the template smaller than the brain where squares are least: it is given the
    brain's volume at the end.
    """
    match = Match(start, 0.0, math.inf)
    for model in models:
        comparison = _Comparison(moving, model)
        match = _minimise(comparison, match.parameters)
        grown = match.parameters.copy()
        grown[3:9] *= comparison.growth(grown)
    return match._replace(parameters=grown)


def _minimise(comparison: _Comparison, parameters: Floats) -> Match:
    """Take damped Gauss-Newton steps until they are short."""
    best = comparison.compare(parameters)
    damping = _DAMPING
    gradient, matrix = comparison.linearise(best)
    for _ in range(_MAX_STEPS):
        damped = matrix + damping * np.diag(np.diag(matrix))
        step = -np.linalg.solve(damped, gradient)
        tried = comparison.compare(best.match.parameters + step)
        if tried.match.cost < best.match.cost:
            best = tried
            damping /= 8.0
            if np.abs(step).max() < _TOLERANCE:
                break
            gradient, matrix = comparison.linearise(best)
        else:
            damping *= 8.0
            if np.abs(step).max() < _TOLERANCE:
                break
    return best.match


def _normalise(values: Floats) -> tuple[Floats, float]:
    """Return values of mean 0 and norm 1, and their original norm."""
    values = values - values.mean()
    norm = max(float(np.linalg.norm(values)), _TINY)
    return values / norm, norm


def to_parameters(linear: Floats, shift: Floats) -> Floats:
    """Return the parameters of a linear map, polar decomposed, and a shift in mm."""
    left, sizes, right = np.linalg.svd(linear)
    turn = np.diag([1.0, 1.0, np.linalg.det(left @ right)])
    rotation = Rotation.from_matrix(left @ turn @ right).as_rotvec()
    stretch = (right.T * sizes @ right)[np.triu_indices(3)]
    return np.concatenate([rotation, stretch, shift / _UNIT])


def to_linear(parameters: Floats) -> Floats:
    """Return the linear map (3, 3) of the parameters."""
    return np.asarray(to_rotation(parameters) @ parameters[_SYMMETRIC])


def to_rotation(parameters: Floats) -> Floats:
    """Return the rotation (3, 3) of the parameters."""
    return _rotate(parameters[:3])


def _rotate(vectors: Floats) -> Floats:
    """Return the rotations (..., 3, 3) by vectors (..., 3), as SciPy, but faster."""
    angles = np.linalg.norm(vectors, axis=-1)[..., None, None]
    # Rodrigues' formula, whose quotients are defined at zero.
    across = np.tensordot(vectors, _SKEW, 1)
    first, second = np.sinc(angles / np.pi), np.sinc(angles / (2.0 * np.pi))
    return np.asarray(np.eye(3) + first * across + second**2 / 2.0 * across @ across)


def _affine_derivatives(parameters: Floats) -> Floats:
    """Return derivatives of the entries of the affine by the parameters: (12, 12)."""
    derivatives = np.zeros((12, 12))
    derivatives[:9, :9] = _linear_derivatives(parameters).reshape(9, 9)
    derivatives[9:, 9:] = np.diag([_UNIT] * 3)
    return derivatives


def _linear_derivatives(parameters: Floats) -> Floats:
    """Return derivatives of the linear part by rotation and stretch: (9, 3, 3)."""
    step = 1e-5
    steps = step * np.concatenate([np.eye(3), -np.eye(3)])
    ahead, behind = np.split(_rotate(parameters[:3] + steps), 2)
    by_rotation = (ahead - behind) / (2.0 * step) @ parameters[_SYMMETRIC]
    stretches = np.arange(3, 9)[:, None, None] == _SYMMETRIC
    by_stretch = to_rotation(parameters) @ stretches
    return np.concatenate([by_rotation, by_stretch])
