"""How much two volumes on one grid tell of each other, whatever their contrasts."""

__all__ = [
    "FEWEST_VOXELS",
    "Levels",
    "agree_on_sides",
    "mutual_information",
    "peak_ratio",
    "to_levels",
]

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Levels = NDArray[np.int16]

_N_LEVELS = 32
_RANGE = (1.0, 99.0)  # percentiles
FEWEST_VOXELS = 500  # that a joint histogram needs


def to_levels(samples: NDArray[Any]) -> Levels:
    """Quantise intensities; -1 where they are not finite."""
    levels = np.full(samples.shape, -1, np.int16)
    is_known = np.isfinite(samples)
    values = samples[is_known]
    if values.size:
        low, high = np.percentile(values, _RANGE)
        scaled = (values - low) * (_N_LEVELS / max(float(high - low), 1e-12))
        levels[is_known] = np.clip(scaled, 0, _N_LEVELS - 1).astype(np.int16)
    return levels


def mutual_information(first: Levels, second: Levels) -> float:
    """Return the mutual information in nats, of voxels that both know.

    It is 0 if there are too few of them.
    """
    both = (first >= 0) & (second >= 0)
    joint = _joint_counts(first[both], second[both])
    n_voxels = joint.sum()
    if n_voxels < FEWEST_VOXELS:
        return 0.0
    joint /= n_voxels
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
    is_met = joint > 0
    return float(np.sum(joint[is_met] * np.log(joint[is_met] / apart[is_met])))


def peak_ratio(first: Levels, second: Levels, step: int) -> float:
    """Compare the information after shifts of `second` to that in place.

    The largest ratio of six shifts by `step` voxels is below 1 if both lie on each
    other, and infinite if they share too few voxels.
    """
    ratios = []
    for axis in range(3):
        for shift in (-step, step):
            moved = _shifted(second, axis, shift)
            # The same voxels in both cases: the content of a slab's edge differs.
            here = mutual_information(np.where(moved >= 0, first, -1), second)
            there = mutual_information(np.where(second >= 0, first, -1), moved)
            ratios.append(there / here if here > 0 else np.inf)
    return max(ratios)


def agree_on_sides(first: Levels, second: Levels) -> float:
    """Correlate how left differs from right, along the first axis.

    It is below 0 if one of the volumes is mirrored. Before, the levels of `second` are
    mapped to the mean of `first` at each.
    """
    both = (first >= 0) & (second >= 0)
    joint = _joint_counts(first[both], second[both])
    means = np.arange(_N_LEVELS) @ joint / np.maximum(joint.sum(axis=0), 1.0)
    symmetric = both & both[::-1]
    weights = ndimage.gaussian_filter(symmetric.astype(np.float32), 1.0)
    sides = []
    for values in (first, means[second]):
        known = np.where(symmetric, values, 0.0).astype(np.float32)
        smooth = ndimage.gaussian_filter(known, 1.0) / np.maximum(weights, 0.1)
        sides.append((smooth - smooth[::-1])[symmetric])
    norms = np.linalg.norm(sides[0]) * np.linalg.norm(sides[1])
    return float(sides[0] @ sides[1] / max(float(norms), 1e-12))


def _joint_counts(first: Levels, second: Levels) -> NDArray[np.float64]:
    codes = first.astype(np.intp) * _N_LEVELS + second
    counts = np.bincount(codes, minlength=_N_LEVELS**2)
    return counts.reshape(_N_LEVELS, _N_LEVELS).astype(np.float64)


def _shifted(levels: Levels, axis: int, shift: int) -> Levels:
    """Shift by whole voxels; what comes from outside is not known."""
    moved = np.roll(levels, shift, axis)
    entered = [slice(None)] * 3
    entered[axis] = slice(None, shift) if shift > 0 else slice(shift, None)
    moved[tuple(entered)] = -1
    return moved
