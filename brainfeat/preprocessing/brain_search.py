"""Rough poses of the brain in a head, from which registration starts."""

__all__ = ["find_center", "find_starts"]

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from brainfeat.preprocessing.foreground import find_head
from brainfeat.preprocessing.head_model import HeadModel
from brainfeat.volume import Volume

Affine = NDArray[np.float64]

# mm below the vertex; neck and shoulders do not locate the brain.
_HEAD_HEIGHT = 150.0
_CENTER_DEPTH = 85.0

_PITCHES = (-0.35, -0.17, 0.0, 0.17, 0.35)
# A smaller range, since heads are symmetric unless one side is cut off.
_SIDE_SHIFTS = (-15.0, 0.0, 15.0)
_SHIFTS = (-30.0, -15.0, 0.0, 15.0, 30.0)
_SCALES = (0.78, 0.92, 1.06, 1.2)
# The brain's centre is below `find_center` in most heads.
_TYPICAL_SCALE, _TYPICAL_SHIFT = 0.95, (0.0, 0.0, -10.0)


def find_starts(volume: Volume, model: HeadModel) -> list[Affine]:
    """Return maps (4, 4) from the model's points to scanner mm, to start a fit from.

    The typical pose comes first. For each of four sizes, the pitch and shift with the
    highest correlation follow; these find heads that are cut off, stripped, small or
    rotated. The volume has voxels of about 8 mm and `find_center` at the origin.
    """
    shifts = np.array([*product(_SIDE_SHIFTS, _SHIFTS, _SHIFTS)])
    starts = [_compose(_TYPICAL_SCALE * np.eye(3), _TYPICAL_SHIFT)]
    for scale in _SCALES:
        best_score, best = -np.inf, np.eye(4)
        for pitch in _PITCHES:
            linear = scale * _pitch_rotation(pitch)
            sampled = _sample_nearest(volume, model.points @ linear.T, shifts)
            scores = _correlate(model.brightness, sampled)
            first = int(np.argmax(scores))
            if scores[first] > best_score:
                best_score = scores[first]
                best = _compose(linear, shifts[first])
        starts.append(best)
    return starts


def find_center(volume: Volume) -> NDArray[np.float64]:
    """Return the middle of the upper head in mm; the volume is in closest-RAS order."""
    head = _largest_part(find_head(volume.data))
    affine = volume.geometry.affine
    points = np.argwhere(head) @ affine[:3, :3].T + affine[:3, 3]
    top = np.percentile(points[:, 2], 99.8)
    points = points[points[:, 2] >= top - _HEAD_HEIGHT]
    low, high = np.percentile(points, [1.0, 99.0], axis=0)
    center: NDArray[np.float64] = (low + high) / 2.0
    center[2] = max(center[2], top - _CENTER_DEPTH)
    return center


def _largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels, n_labels = ndimage.label(mask)
    if n_labels < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    return np.asarray(labels == 1 + np.argmax(sizes[1:]))


def _compose(linear: NDArray[np.float64], shift: ArrayLike) -> Affine:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, shift
    return affine


def _pitch_rotation(pitch: float) -> NDArray[np.float64]:
    cosine, sine = np.cos(pitch), np.sin(pitch)
    return np.array([[1.0, 0.0, 0.0], [0.0, cosine, -sine], [0.0, sine, cosine]])


def _sample_nearest(
    volume: Volume, points: NDArray[np.float64], shifts: NDArray[np.float64]
) -> NDArray[Any]:
    """Return the nearest voxels at points (n, 3), moved by each of m shifts: (m, n)."""
    to_voxel = np.linalg.inv(volume.geometry.affine).astype(np.float32)
    turned = points.astype(np.float32) @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    moves = shifts.astype(np.float32) @ to_voxel[:3, :3].T
    flat = np.zeros((len(shifts), len(points)), dtype=np.int32)
    for axis, size in enumerate(volume.data.shape):
        indices = np.rint(turned[:, axis] + moves[:, axis, None])
        flat *= size
        flat += np.clip(indices, 0, size - 1, out=indices).astype(np.int32)
    return volume.data.ravel()[flat]


def _correlate(model: NDArray[np.float64], sampled: NDArray[Any]) -> NDArray[Any]:
    """Correlate a model of mean 0 and norm 1 with each row of (m, n)."""
    centered = sampled - sampled.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centered, axis=1)
    return np.asarray(centered @ model / np.maximum(norms, 1e-12))
