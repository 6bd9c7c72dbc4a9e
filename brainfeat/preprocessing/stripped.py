"""Masks of volumes that are already stripped."""

__all__ = ["find_stripped"]

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brainfeat.preprocessing.foreground import find_flat_background
from brainfeat.preprocessing.morphology import bounds, dilate, largest_part
from brainfeat.preprocessing.resampling import crop, downsample, resample
from brainfeat.volume import Volume

Flags = NDArray[np.bool_]
Floats = NDArray[np.float32]

_SPACING = 2.0  # mm, the accuracy of the mask
_MAX_LITRES = 2.3  # of a brain; heads have three or more
# What differs from the background may be this much larger than the brain that the
# network finds, which errs by a few hundredths: heads are almost twice as large.
_MAX_EXCESS = 1.35
_TRACE = 0.05  # of the brightest tissue
# Where more voxels than this are traces, they are no fluid: interpolation left them.
_MAX_TRACES = 0.15
_EDGE_WIDTH = 2  # voxels affected by interpolation and ringing


def find_stripped(volume: Volume, small: Volume, brain: Volume) -> Volume | None:
    """Return which fraction of each voxel is brain; None if a head surrounds it.

    `brain` is the fraction that the network finds in `small`, the downsampled volume.
    Fluid that the mask encloses is brain, too.
    """
    background = find_flat_background(volume.data)
    if background is None:
        return None
    # Most heads are excluded on the coarse grid.
    rough = np.abs(small.data - np.float32(background))
    rough = (rough > _TRACE * _high_level(rough)).astype(np.float32)
    if not _is_brain(Volume(rough, small.geometry), brain):
        return None
    near = crop(volume, *bounds(volume.data != background, margin=_EDGE_WIDTH))
    contrast = np.abs(near.data - np.float32(background))
    bright = contrast > _TRACE * _high_level(contrast)
    mask = _to_fractions(Volume(bright, near.geometry))
    whole = _to_fractions(Volume(contrast > 0, near.geometry))
    if whole.data.sum() <= (1.0 + _MAX_TRACES) * mask.data.sum():
        return whole
    edged = _without_interpolated_edge(bright, contrast)
    return _to_fractions(Volume(edged, near.geometry))


def _is_brain(mask: Volume, brain: Volume) -> bool:
    litres = float(mask.data.sum()) * float(np.prod(mask.geometry.spacing)) / 1e6
    if litres > _MAX_LITRES:
        return False
    within = resample(brain, mask.geometry, np.eye(4))
    common = np.minimum(mask.data, within).sum(dtype=np.float64)
    return bool(mask.data.sum(dtype=np.float64) <= _MAX_EXCESS * common)


def _high_level(contrast: Floats) -> np.float32:
    """Return the 99th percentile of a sample of the voxels that have contrast."""
    sample = contrast[::2, ::2, ::2]
    sample = sample[sample > 0]
    return np.float32(np.percentile(sample, 99.0) if sample.size else 0.0)


def _to_fractions(mask: Volume) -> Volume:
    """Average a mask to voxels of 2 mm, and fill what its largest part encloses."""
    fractions = downsample(mask, _SPACING)
    inside = largest_part(np.pad(fractions.data >= 0.5, 2))
    closed = ~dilate(~dilate(inside))
    outside, _ = ndimage.label(~closed)
    holes = ~closed & (outside != outside[0, 0, 0])
    # The gaps that were closed around them, too.
    holes |= dilate(holes) & ~inside
    core = (slice(2, -2),) * 3
    near = dilate(inside)[core]
    kept = np.where(near, fractions.data, np.float32(0.0))
    filled = np.where(holes[core], np.float32(1.0), kept)
    return Volume(filled, fractions.geometry)


def _without_interpolated_edge(mask: Flags, contrast: Floats) -> Flags:
    """Remove edge voxels with less than half the contrast of their neighbours."""
    edge = ~mask
    for _ in range(_EDGE_WIDTH):
        edge = dilate(edge)
    edge &= mask
    kept = contrast >= 0.5 * ndimage.maximum_filter(contrast, size=3)
    return np.asarray(mask & (kept | ~edge))
