"""Rough places of the brain in a head, from which a registration can start."""

__all__ = ["BRAIN_CENTER", "find_center", "find_starts"]

from functools import cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brainfeat.foreground import find_head
from brainfeat.resampling import to_shrunk
from brainfeat.template import load_template
from brainfeat.volume import Volume

Affine = NDArray[np.float64]

BRAIN_CENTER = (0.0, -17.0, 5.0)
"""Middle of the template brain's bounding box, in template millimetres."""

# Below the vertex: a head's neck and shoulders say nothing of where its brain is.
_HEAD_HEIGHT = 150.0
_CENTER_DEPTH = 85.0

_PITCHES = (-0.35, -0.17, 0.0, 0.17, 0.35)
_SHIFTS = (-30.0, -15.0, 0.0, 15.0, 30.0)
# The template is larger than most brains: at its own size it may fit the scalp.
_SCALES = (0.8, 0.9, 1.0)
_SAMPLE_SPACING = 10.0
_N_BINS = 16


def find_starts(volume: Volume, n_starts: int) -> list[Affine]:
    """Find places of the template brain that a head may have it in.

    Nods, sizes and shifts about the centre of the head are compared by the mutual
    information of a few thousand points.

    Parameters
    ----------
    volume : Volume
        Head or brain in closest-RAS order, with voxels of about 6 mm.
    n_starts : int
        How many starts to return for each size, of different pitch; at most five.

    Returns
    -------
    list of ndarray of shape (4, 4)
        Maps of template to scanner millimetres that turn, scale and shift.
    """
    points, template_bins = _load_samples()
    volume_bins = _to_bins(volume.data)
    to_voxel = np.linalg.inv(volume.geometry.affine)
    center = find_center(volume)
    best: dict[tuple[float, float], tuple[float, Affine]] = {}
    shifts = [center + np.array([0.0, y, z]) for y, z in product(_SHIFTS, _SHIFTS)]
    for pitch, scale in product(_PITCHES, _SCALES):
        starts = [_similarity(pitch, scale, shift) for shift in shifts]
        sampled = _sample_nearest(volume_bins, points, to_voxel @ np.array(starts))
        scores = _mutual_information(template_bins, sampled)
        first = int(np.argmax(scores))
        best[pitch, scale] = float(scores[first]), starts[first]
    chosen = []
    for scale in _SCALES:
        ranked = sorted(
            (best[pitch, scale] for pitch in _PITCHES), key=lambda scored: -scored[0]
        )
        chosen += [start for _, start in ranked[:n_starts]]
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


@cache
def _load_samples() -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Load points in and around the template brain, and their intensity bins."""
    brain = to_shrunk(load_template("T1w"), _SAMPLE_SPACING)
    near = ndimage.binary_dilation(brain.data > 0)
    points = np.argwhere(near) @ brain.geometry.affine[:3, :3].T
    return points + brain.geometry.affine[:3, 3], _to_bins(brain.data)[near]


def _to_bins(data: NDArray[Any]) -> NDArray[np.intp]:
    """Sort intensities into bins 1, 2, ...; bin 0 stays free for what is outside."""
    low, high = map(float, np.percentile(data, [0.5, 99.0]))
    if high <= low:
        return np.ones(data.shape, dtype=np.intp)
    shares = (np.clip(data, low, high).astype(np.float64) - low) / (high - low)
    bins: NDArray[np.intp] = 1 + ((_N_BINS - 1) * shares).astype(np.intp)
    return bins


def _similarity(pitch: float, scale: float, center: NDArray[np.float64]) -> Affine:
    """Nod and scale the template about its brain's centre; move that to `center`."""
    cosine, sine = np.cos(pitch), np.sin(pitch)
    affine = np.eye(4)
    affine[1:3, 1:3] = [[cosine, -sine], [sine, cosine]]
    affine[:3, :3] *= scale
    affine[:3, 3] = center - affine[:3, :3] @ np.array(BRAIN_CENTER)
    return affine


def _sample_nearest(
    bins: NDArray[np.intp], points: NDArray[np.float64], to_voxel: NDArray[Any]
) -> NDArray[np.intp]:
    """Look up bins at points that n matrices of one rotation move: (n, n_points)."""
    turned = points @ to_voxel[0, :3, :3].T
    # A rim of bin 0 stands for all that is outside.
    padded = np.pad(bins, 1)
    flat = np.zeros((len(to_voxel), len(points)), dtype=np.intp)
    for axis, size in enumerate(padded.shape):
        places = np.rint(turned[:, axis] + to_voxel[:, axis, 3:]) + 1.0
        flat = flat * size + np.clip(places, 0, size - 1).astype(np.intp)
    return padded.ravel()[flat]


def _mutual_information(
    first: NDArray[np.intp], second: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Compare bins of shape (n_points,) with each row of (n, n_points)."""
    n_levels, n_rows = _N_BINS + 1, len(second)
    rows = np.arange(n_rows)[:, None] * n_levels**2
    joint = np.bincount(
        (rows + first * n_levels + second).ravel(), minlength=n_rows * n_levels**2
    )
    share = joint.reshape(n_rows, n_levels, n_levels) / len(first)
    independent = share.sum(axis=2, keepdims=True) * share.sum(axis=1, keepdims=True)
    # What no point has adds nothing: log(1) in its place.
    ratio = np.divide(share, independent, out=np.ones_like(share), where=share > 0)
    information: NDArray[np.float64] = np.sum(share * np.log(ratio), axis=(1, 2))
    return information
