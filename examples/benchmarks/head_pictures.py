"""One page with a picture of every scan and the contour of its brain mask."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from brainfeat import Geometry, Volume
from brainfeat.preprocessing.resampling import resample

_REACH = 20  # voxels around the encoder's grid, to show what the mask leaves out
_CAPTION = 40  # pixels
_GAP = 6
_MASK, _REFERENCE = (255, 160, 0), (0, 200, 255)
_WIDTH = 60  # letters of a line


class Picture(NamedTuple):
    """Three cuts of a scan, what to write below, and whether it stands out."""

    pixels: NDArray[np.uint8]
    caption: str
    is_framed: bool


def draw(
    volume: Volume,
    grid: Geometry,
    grid_to_scanner: NDArray[np.float64],
    mask: NDArray[np.bool_],
    reference: Volume | None = None,
) -> NDArray[np.uint8]:
    """Draw a scan with the contours of its mask (orange) and reference (blue)."""
    wide = _widen(grid)
    data = resample(volume, wide, grid_to_scanner, outside=float(volume.data.min()))
    low, high = np.percentile(data, [1.0, 99.7])
    unit = np.clip((data - low) / max(float(high - low), 1e-6), 0.0, 1.0)
    masks = [(np.pad(mask, _REACH), _MASK)]
    if reference is not None:
        fraction = Volume(reference.data.astype(np.float32), reference.geometry)
        other = resample(fraction, wide, grid_to_scanner) >= 0.5
        masks.insert(0, (other, _REFERENCE))
    middle = _middle(masks[-1][0])
    panels = []
    for axis in range(3):
        gray = np.round(255.0 * _cut(unit, middle, axis)).astype(np.uint8)
        panel = np.repeat(gray[..., None], 3, axis=2)
        for flags, color in masks:
            panel[_contour(_cut(flags, middle, axis))] = color
        panels.append(panel)
    height = max(len(panel) for panel in panels)
    padded = [
        np.pad(panel, ((0, height - len(panel)), (0, 2), (0, 0))) for panel in panels
    ]
    return np.hstack(padded)


def write_page(pictures: Sequence[Picture], path: Path, n_columns: int = 6) -> None:
    """Write all pictures as one PNG."""
    if not pictures:
        return
    height = max(len(picture.pixels) for picture in pictures) + _CAPTION + _GAP
    width = max(picture.pixels.shape[1] for picture in pictures) + _GAP
    n_rows = -(-len(pictures) // n_columns)
    page = Image.new("RGB", (width * n_columns, height * n_rows), "white")
    pen = ImageDraw.Draw(page)
    for i, picture in enumerate(pictures):
        x, y = i % n_columns * width, i // n_columns * height
        page.paste(Image.fromarray(picture.pixels), (x, y))
        rows, columns = picture.pixels.shape[:2]
        color = "red" if picture.is_framed else "black"
        if picture.is_framed:
            pen.rectangle((x, y, x + columns, y + rows), outline="red", width=2)
        text = "\n".join(wrap(picture.caption, _WIDTH)[:3])
        pen.multiline_text((x + 2, y + rows + 1), text, fill=color, spacing=1)
    page.save(path)


def _widen(grid: Geometry) -> Geometry:
    affine = grid.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, _REACH)
    i, j, k = (size + 2 * _REACH for size in grid.shape)
    return Geometry((i, j, k), affine)


def _middle(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    inside = np.argwhere(mask)
    if not len(inside):
        return np.array(mask.shape) // 2
    middle = (inside.min(axis=0) + inside.max(axis=0)) // 2
    middle[0] -= 4  # beside the fissure
    return np.asarray(middle)


def _cut(data: NDArray[Any], middle: NDArray[np.intp], axis: int) -> NDArray[Any]:
    """Return a plane with superior or anterior up."""
    return np.take(data, middle[axis], axis).T[::-1]


def _contour(flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
    padded = np.pad(flags, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(flags & ~inner)
