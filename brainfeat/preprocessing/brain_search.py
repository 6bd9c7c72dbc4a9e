"""Rough places of the brain in a head, from which a registration can start."""

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

# Below the vertex: a head's neck and shoulders say nothing of where its brain is.
_HEAD_HEIGHT = 150.0
_CENTER_DEPTH = 85.0

_PITCHES = (-0.35, -0.17, 0.0, 0.17, 0.35)
# To the right less: a head has two sides alike, unless one of them is cut off.
_SIDE_SHIFTS = (-15.0, 0.0, 15.0)
_SHIFTS = (-30.0, -15.0, 0.0, 15.0, 30.0)
_SCALES = (0.78, 0.92, 1.06, 1.2)
# Where the brain's centre lies in most heads, below what `find_center` says.
_USUAL_SCALE, _USUAL_SHIFT = 0.95, (0.0, 0.0, -10.0)


def find_starts(volume: Volume, model: HeadModel) -> list[Affine]:
    """Find places of the template brain that a head may have it in.

    The usual place comes first: from there most heads are found, whatever their
    contrast. For each of four sizes, nods and shifts about the origin are compared by
    how well the head correlates with the model; these find heads that are cut off,
    stripped, small or turned.

    Parameters
    ----------
    volume : Volume
        Head or brain in closest-RAS order, with voxels of about 8 mm and with the
        origin where `find_center` says.
    model : HeadModel
        Its contrast.

    Returns
    -------
    list of ndarray of shape (4, 4)
        Maps of the model's points to scanner millimetres that turn, scale and shift:
        the usual place, and the best of each size.
    """
    shifts = np.array([*product(_SIDE_SHIFTS, _SHIFTS, _SHIFTS)])
    chosen = [_place(_USUAL_SCALE * np.eye(3), _USUAL_SHIFT)]
    for scale in _SCALES:
        best_score, best = -np.inf, np.eye(4)
        for pitch in _PITCHES:
            linear = scale * _nod(pitch)
            sampled = _sample_nearest(volume, model.points @ linear.T, shifts)
            scores = _correlate(model.brightness, sampled)
            first = int(np.argmax(scores))
            if scores[first] > best_score:
                best_score = scores[first]
                best = _place(linear, shifts[first])
        chosen.append(best)
    return chosen


def find_center(volume: Volume) -> NDArray[np.float64]:
    """Find the middle of the head's upper part, which is about that of the brain.

    Parameters
    ----------
    volume : Volume
        Head, brain or anything else in closest-RAS order, with finite intensities.

    Returns
    -------
    ndarray of shape (3,)
        Scanner coordinates in millimetres.
    """
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


def _place(linear: NDArray[np.float64], shift: ArrayLike) -> Affine:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, shift
    return affine


def _nod(pitch: float) -> NDArray[np.float64]:
    cosine, sine = np.cos(pitch), np.sin(pitch)
    return np.array([[1.0, 0.0, 0.0], [0.0, cosine, -sine], [0.0, sine, cosine]])


def _sample_nearest(
    volume: Volume, points: NDArray[np.float64], shifts: NDArray[np.float64]
) -> NDArray[Any]:
    """Look up values at points (n, 3), moved by each of m shifts: (m, n).

    What lies outside has the value of the nearest voxel.
    """
    to_voxel = np.linalg.inv(volume.geometry.affine).astype(np.float32)
    turned = points.astype(np.float32) @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    moves = shifts.astype(np.float32) @ to_voxel[:3, :3].T
    flat = np.zeros((len(shifts), len(points)), dtype=np.int32)
    for axis, size in enumerate(volume.data.shape):
        places = np.rint(turned[:, axis] + moves[:, axis, None])
        flat *= size
        flat += np.clip(places, 0, size - 1, out=places).astype(np.int32)
    return volume.data.ravel()[flat]


def _correlate(model: NDArray[np.float64], sampled: NDArray[Any]) -> NDArray[Any]:
    """Correlate a model of mean 0 and norm 1 with each row of (n, n_points)."""
    centered = sampled - sampled.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centered, axis=1)
    scores: NDArray[Any] = centered @ model / np.maximum(norms, 1e-12)
    return scores
