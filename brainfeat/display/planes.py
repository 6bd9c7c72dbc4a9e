"""Three planes of a 3D array side by side, as a small picture for a notebook."""

__all__ = ["planes_html"]

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainfeat.display.png import encode_palette_png, encode_png

_HEIGHT = 160  # pixels of the largest extent
_GAP = 4  # pixels between planes
_PLANES = {"coronal": 1, "axial": 2, "sagittal": 0}
_BLUE, _GREY, _RED = (33, 102, 172), (242, 242, 242), (178, 24, 43)


def planes_html(
    data: NDArray[Any], spacing: Sequence[float], *, is_signed: bool = False
) -> str:
    """Draw the planes through the middle of what an array in RAS order shows.

    Signed values are blue below zero and red above, others grey.
    """
    values = np.nan_to_num(np.asarray(data, np.float32), posinf=0.0, neginf=0.0)
    center = [_find_middle(np.abs(values), axis) for axis in range(3)]
    extents = [size * mm for size, mm in zip(values.shape, spacing, strict=True)]
    pixel = max(extents) / _HEIGHT
    planes = []
    for axis in _PLANES.values():
        steps = [pixel / mm for other, mm in enumerate(spacing) if other != axis]
        plane = _resize(np.take(values, center[axis], axis=axis), steps)
        planes.append(plane[:, ::-1].T)  # superior or anterior up
    picture = _join(planes)
    height, width = picture.shape
    address = _encode_signed(picture) if is_signed else _encode_grey(picture)
    name = f"{', '.join(_PLANES)}; left is left"
    return (
        f'<img src="{address}" width="{width}" height="{height}" '
        f'style="max-width: 100%; height: auto" alt="{escape(name)}" '
        f'title="{escape(name)}">'
    )


def _find_middle(magnitudes: NDArray[np.floating], axis: int) -> int:
    """Return the index of the centre of mass of one axis."""
    others = tuple(other for other in range(3) if other != axis)
    weights = magnitudes.sum(axis=others, dtype=np.float64)
    if not weights.any():
        return len(weights) // 2
    return int(np.rint(np.average(np.arange(len(weights)), weights=weights)))


def _resize(plane: NDArray[np.floating], steps: Sequence[float]) -> NDArray[Any]:
    """Interpolate a plane linearly, with pixels of so many voxels."""
    rows, columns = (
        _interpolation(size, step)
        for size, step in zip(plane.shape, steps, strict=True)
    )
    return np.asarray(rows @ plane @ columns.T)


def _interpolation(size: int, step: float) -> NDArray[np.floating]:
    """Return the weights of `size` voxels in each pixel, of shape (n_pixels, size)."""
    n_pixels = max(1, round(size / step))
    positions = (np.arange(n_pixels) + 0.5) * step - 0.5
    # Borders are extended; pixels larger than voxels average them.
    positions = positions.clip(0, size - 1)
    distances = np.abs(positions[:, None] - np.arange(size))
    weights = np.maximum(0.0, 1.0 - distances / max(1.0, step))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _join(planes: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Put planes side by side, centred in height, with a gap of zeros."""
    height = max(len(plane) for plane in planes)
    padded = []
    for plane in planes:
        above = (height - len(plane)) // 2
        padded.append(np.pad(plane, ((above, height - len(plane) - above), (0, _GAP))))
    return np.hstack(padded)[:, :-_GAP]


def _encode_grey(picture: NDArray[Any]) -> str:
    low, high = np.percentile(picture, (1, 99.5))
    low = min(low, 0.0) if picture.min() < 0 else low
    unit = ((picture - low) / max(float(high - low), 1e-6)).clip(0, 1)
    return encode_png(np.round(255 * unit).astype(np.uint8))


def _encode_signed(picture: NDArray[Any]) -> str:
    unit = picture / max(float(np.abs(picture).max()), 1e-12)
    indices = np.round(127 * (unit + 1.0)).astype(np.uint8)  # 0 to 254; zero is 127
    fractions = np.arange(255) / 127.0 - 1.0
    ends = np.where(fractions[:, None] < 0, _BLUE, _RED)
    colors = _GREY + np.abs(fractions)[:, None] * (ends - np.array(_GREY))
    palette = [(int(r), int(g), int(b), 255) for r, g, b in np.rint(colors)]
    return encode_palette_png(indices, palette)
