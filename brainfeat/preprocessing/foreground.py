"""Head and brain against background, found from the intensities alone."""

__all__ = ["find_flat_background", "find_head", "otsu_threshold"]

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_N_BINS = 128
# Fat and vessels are far brighter than the brain and would draw the threshold up.
_BRIGHTEST_PERCENTILE = 99.0
_MIN_FLAT_SHARE = 0.1
_SAMPLE_STEP = 64


def otsu_threshold(values: NDArray[Any]) -> float:
    """Find the threshold that parts values into the two most uniform classes.

    Parameters
    ----------
    values : ndarray
        Finite intensities of any shape. The brightest hundredth counts as one value.

    Returns
    -------
    float
        Threshold [1]_; values above it are foreground. Equal to the minimum if all
        values are the same.

    References
    ----------
    .. [1] Otsu, A threshold selection method from gray-level histograms. IEEE
       Transactions on Systems, Man, and Cybernetics 9, 1979.
       doi:10.1109/TSMC.1979.4310076
    """
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
    """Part the head from the air around it.

    Parameters
    ----------
    data : ndarray of shape (size_i, size_j, size_k)
        Finite intensities with a background darker than the head.

    Returns
    -------
    ndarray of bool of shape (size_i, size_j, size_k)
        Bright voxels and the dark ones that they enclose, in space or in a plane.
        Never empty: a volume without contrast is all head.
    """
    if data.flags.f_contiguous and not data.flags.c_contiguous:
        return find_head(data.T).T  # along memory, which is a third faster
    head = data > otsu_threshold(data)
    if not head.any():
        return np.ones(data.shape, dtype=bool)
    # Holes in a plane include those in space, and close what a dark skull base or the
    # edge of the volume leaves open.
    mask: NDArray[np.bool_] = np.logical_or.reduce(
        [_fill_holes_in_planes(head, axis) for axis in range(3)]
    )
    return mask


def find_flat_background(data: NDArray[Any]) -> float | None:
    """Find the one value that fills the background of a masked volume.

    Parameters
    ----------
    data : ndarray of shape (size_i, size_j, size_k)
        Finite intensities.

    Returns
    -------
    float or None
        Value of the corners, if most of them share it and if it fills at least a
        tenth of the volume; else None.
    """
    corners = data[np.ix_(*[(0, size - 1) for size in data.shape])]
    values, counts = np.unique(corners, return_counts=True)
    value = values[np.argmax(counts)]
    if counts.max() < 5 or np.mean(data == value) < _MIN_FLAT_SHARE:
        return None
    return float(value)


def _high_percentile(values: NDArray[Any], percentile: float) -> float:
    """Find a percentile of the brightest, as NumPy does but a few times as fast.

    Only what is brighter than most of a sample is put in order.
    """
    flat = values.ravel()
    place = (flat.size - 1) * percentile / 100.0
    guess = np.percentile(flat[::_SAMPLE_STEP], percentile - 2.0)
    brightest = flat[flat > guess]
    below = int(place) - (flat.size - brightest.size)
    if below < 0 or below + 1 >= brightest.size:
        return float(np.percentile(flat, percentile))
    low, high = np.partition(brightest, (below, below + 1))[below : below + 2]
    return float(low + (high - low) * (place - int(place)))


def _fill_holes_in_planes(mask: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """Fill what a mask encloses in each plane across `axis`."""
    connectivity = np.expand_dims(ndimage.generate_binary_structure(2, 1), axis)
    labels, n_labels = ndimage.label(
        ~mask,
        structure=np.pad(
            connectivity, [(1, 1) if i == axis else (0, 0) for i in range(3)]
        ),
    )
    is_open = np.zeros(n_labels + 1, dtype=bool)
    for side in {0, 1, 2} - {axis}:
        is_open[np.take(labels, [0, -1], axis=side)] = True
    is_open[0] = False
    filled: NDArray[np.bool_] = ~is_open[labels]
    return filled
