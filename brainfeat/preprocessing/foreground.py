"""Separate head and background by intensity."""

__all__ = ["find_flat_background", "find_head", "otsu_threshold"]

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_N_BINS = 128
# Fat and vessels are far brighter than the brain and would raise the threshold.
_BRIGHTEST_PERCENTILE = 99.0
_MIN_FLAT_FRACTION = 0.1
_SAMPLE_STEP = 64
_N_PARTS = 16  # of a volume that is searched until enough is found


def otsu_threshold(values: NDArray[Any]) -> float:
    """Return the threshold between the two most uniform classes of intensities.

    Values above it are foreground; the brightest hundredth counts as one value. It is
    the minimum if all values are equal.
    """
    # Otsu, A threshold selection method from gray-level histograms, 1979,
    # doi:10.1109/TSMC.1979.4310076
    low = float(values.min())
    high = _high_percentile(values, _BRIGHTEST_PERCENTILE)
    if high <= low:
        return low
    counts, edges = np.histogram(np.clip(values, low, high), _N_BINS, (low, high))
    centers = (edges[:-1] + edges[1:]) / 2.0
    below = np.cumsum(counts)[:-1]
    above = values.size - below
    moment = np.cumsum(counts * centers)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = moment[:-1] / below - (moment[-1] - moment[:-1]) / above
    between_classes = np.where((below > 0) & (above > 0), below * above * gap**2, -1.0)
    return float(edges[1 + int(np.argmax(between_classes))])


def find_head(data: NDArray[Any]) -> NDArray[np.bool_]:
    """Separate the head from darker air, with the dark voxels that the head encloses.

    Voxels may be enclosed in space or in a plane. Never empty: a volume without
    contrast is all head.
    """
    if data.flags.f_contiguous and not data.flags.c_contiguous:
        return find_head(data.T).T  # in memory order, a third faster
    head = data > otsu_threshold(data)
    if not head.any():
        return np.ones(data.shape, dtype=bool)
    # Holes in a plane include those in space, and those that a dark skull base or the
    # edge of the volume leave open in space.
    filled = [_fill_holes_in_planes(head, axis) for axis in range(3)]
    return np.asarray(np.logical_or.reduce(filled))


def find_flat_background(data: NDArray[Any]) -> float | None:
    """Return the value of a masked volume's background, None if there is none."""
    # Most corners and a tenth of the volume must have it.
    corners = data[np.ix_(*[(0, size - 1) for size in data.shape])]
    values, counts = np.unique(corners, return_counts=True)
    value = values[np.argmax(counts)]
    if counts.max() < 5:
        return None
    return float(value) if _has_many(data, value) else None


def _has_many(data: NDArray[Any], value: float) -> bool:
    """Return whether a tenth of the voxels have a value, without a look at the rest."""
    missing = _MIN_FLAT_FRACTION * data.size
    slowest = int(np.argmax(np.abs(data.strides)))
    planes = np.moveaxis(data, slowest, 0)
    step = max(1, len(planes) // _N_PARTS)
    for start in range(0, len(planes), step):
        missing -= np.count_nonzero(planes[start : start + step] == value)
        if missing <= 0:
            return True
    return False


def _high_percentile(values: NDArray[Any], percentile: float) -> float:
    """Return a high percentile, as NumPy does but several times as fast."""
    # Only values brighter than most of a sample are sorted.
    flat = values.ravel()
    position = (flat.size - 1) * percentile / 100.0
    guess = np.percentile(flat[::_SAMPLE_STEP], percentile - 2.0)
    brightest = flat[flat > guess]
    below = int(position) - (flat.size - brightest.size)
    if below < 0 or below + 1 >= brightest.size:
        return float(np.percentile(flat, percentile))
    low, high = np.partition(brightest, (below, below + 1))[below : below + 2]
    return float(low + (high - low) * (position - int(position)))


def _fill_holes_in_planes(mask: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """Fill what a mask encloses in each plane perpendicular to `axis`."""
    connectivity = np.expand_dims(ndimage.generate_binary_structure(2, 1), axis)
    margins = [(1, 1) if i == axis else (0, 0) for i in range(3)]
    labels, n_labels = ndimage.label(~mask, np.pad(connectivity, margins))
    is_open = np.zeros(n_labels + 1, dtype=bool)
    for side in {0, 1, 2} - {axis}:
        is_open[np.take(labels, [0, -1], axis=side)] = True
    is_open[0] = False
    return np.asarray(~is_open[labels])
