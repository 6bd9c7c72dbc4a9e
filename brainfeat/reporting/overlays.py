"""Label maps over their scans, in three planes."""

__all__ = ["Overlay", "class_colors", "draw_overlay"]

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brainfeat.display.png import encode_palette_png, encode_png
from brainfeat.exceptions import InputError
from brainfeat.io.volumes import read_labels, read_volume
from brainfeat.preprocessing.resampling import reorient_to_ras

_PIXEL_MM = 1.25
_GAP = 4  # pixels between planes
_FILL, _EDGE = 90, 255  # opacity inside a structure and at its border
_GOLDEN = 0.381966  # of the circle of hues: neighbours in number differ in colour
_MAX_COLORS = 127  # a palette of 256 has two of each, and none


class Overlay(NamedTuple):
    """Pictures of one scan, of the same size, side by side in three planes."""

    width: int
    height: int
    scan: str  # address of the grey picture
    labels: str  # address of the coloured one, to lie over it


def class_colors(n_classes: int) -> list[tuple[int, int, int]]:
    """Return a bright colour for each structure, the first of them red."""
    colors = []
    for number in range(n_classes):
        hue = (0.02 + number * _GOLDEN) % 1.0
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 1.0)
        colors.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colors


def draw_overlay(image: Path, label_map: Path, classes: Sequence[int]) -> Overlay:
    """Draw the planes that show most of the structures; left is left.

    ``classes`` are the labels of structures, in the order of their colours.
    """
    scan, labels = read_volume(image), read_labels(label_map)
    if labels.data.shape != scan.data.shape:
        raise InputError(f"{label_map}: expected the grid of {image}, got another.")
    grey, drawn = reorient_to_ras(scan), reorient_to_ras(labels)
    spacing = grey.geometry.spacing
    center = _find_center(drawn.data != 0)
    greys, marks = [], []
    for axis in (1, 2, 0):  # coronal, axial, sagittal
        steps = [mm / _PIXEL_MM for a, mm in enumerate(spacing) if a != axis]
        greys.append(_cut(grey.data, axis, center[axis], steps, order=1))
        marks.append(_cut(drawn.data, axis, center[axis], steps, order=0))
    low, high = np.nanpercentile(np.concatenate([g.ravel() for g in greys]), (1, 99.5))
    unit = [((g - low) / max(float(high - low), 1e-6)).clip(0, 1) for g in greys]
    pixels = np.round(255 * np.nan_to_num(_join(unit))).astype(np.uint8)
    numbers = _join([_with_edges(mark, classes) for mark in marks]).astype(np.uint8)
    colors = class_colors(min(len(classes), _MAX_COLORS))
    palette = [(0, 0, 0, 0)]
    palette += [(*color, opacity) for color in colors for opacity in (_FILL, _EDGE)]
    height, width = pixels.shape
    return Overlay(
        width, height, encode_png(pixels), encode_palette_png(numbers, palette)
    )


def _find_center(inside: NDArray[np.bool_]) -> list[int]:
    """Return the index of the fullest plane of each axis, or of the middle one."""
    center = []
    for axis, size in enumerate(inside.shape):
        others = tuple(other for other in range(3) if other != axis)
        counts = inside.sum(axis=others)
        center.append(int(counts.argmax()) if counts.any() else size // 2)
    return center


def _cut(
    data: NDArray[Any], axis: int, index: int, steps: Sequence[float], *, order: int
) -> NDArray[Any]:
    """Return one plane with square pixels, superior or anterior up."""
    plane = np.take(data, index, axis=axis)
    if order == 1:
        plane = plane.astype(np.float32)
    zoomed = ndimage.zoom(plane, steps, order=order, mode="nearest", grid_mode=True)
    return np.asarray(zoomed[:, ::-1].T)


def _with_edges(labels: NDArray[Any], classes: Sequence[int]) -> NDArray[np.int64]:
    """Return two numbers a structure, from 1: inside it, and at its border."""
    numbers = np.zeros(labels.shape, np.int64)
    for number, label in enumerate(classes):
        inside = labels == label
        if inside.any():
            edge = inside & ~ndimage.binary_erosion(inside, border_value=1)
            first = 1 + 2 * (number % _MAX_COLORS)
            numbers[inside], numbers[edge] = first, first + 1
    return numbers


def _join(planes: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Put planes side by side, centred in height, with a gap."""
    height = max(len(plane) for plane in planes)
    padded = []
    for plane in planes:
        above = (height - len(plane)) // 2
        rows = (above, height - len(plane) - above)
        padded.append(np.pad(plane, (rows, (0, _GAP))))
    return np.hstack(padded)[:, :-_GAP]
