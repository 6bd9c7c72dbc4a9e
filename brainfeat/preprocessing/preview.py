"""A small picture of a preprocessed subject: three planes of each modality."""

__all__ = [
    "PREVIEW_GRID",
    "SubjectPicture",
    "draw_picture",
    "read_picture",
    "template_strip",
]

import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from brainfeat.display.png_file import png_size, png_text, write_png
from brainfeat.preprocessing.preprocessed import PreprocessedSubject
from brainfeat.preprocessing.template import TemplateMap, load_template
from brainfeat.volume import Geometry

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Of the default preprocessing, so that most subjects need no resampling.
PREVIEW_GRID = Geometry(
    (80, 104, 80),
    np.array([[2.0, 0, 0, -79], [0, 2, 0, -120], [0, 0, 2, -74], [0, 0, 0, 1]]),
)
_CUTS = (3.0, -20.0, 8.0)  # x, y, z in MNI152 mm
_KEYWORD = "brainfeat"
_N_GREYS = 15
_EDGE = (0, 190, 120)  # colour of the edge of the mask


class SubjectPicture(NamedTuple):
    """A PNG image, with a strip of three planes below another for each modality."""

    png: bytes
    width: int
    height: int
    modalities: tuple[str, ...]
    overlap: float  # Dice coefficient of mask and template brain in these planes


def draw_picture(
    subject: PreprocessedSubject, modalities: Sequence[str]
) -> SubjectPicture:
    """Draw the modalities that a subject has, with the edge of its brain mask."""
    inside = _sample(subject.foreground.astype(np.float32), subject.geometry) >= 0.5
    brain = template_strip("brain_mask") >= 0.5
    both = 2.0 * (inside & brain).sum()
    overlap = float(both / max(int(inside.sum() + brain.sum()), 1))
    strips, names = [], []
    for number in np.flatnonzero(subject.present):
        values = _sample(subject.data[number], subject.geometry)
        strips.append(_to_indices(values, inside))
        names.append(modalities[int(number)])
    indices = np.vstack(strips)
    overlap = round(overlap, 4)
    content = _encode(indices, json.dumps({"modalities": names, "overlap": overlap}))
    height, width = indices.shape
    return SubjectPicture(content, width, height, tuple(names), overlap)


def read_picture(content: bytes) -> SubjectPicture:
    """Read what `draw_picture` wrote; raises ValueError if the file is another."""
    text = png_text(content, _KEYWORD)
    if text is None:
        raise ValueError("expected a preview that brainfeat wrote.")
    known = json.loads(text)
    names, overlap = tuple(known["modalities"]), float(known["overlap"])
    return SubjectPicture(content, *png_size(content), names, overlap)


@cache
def template_strip(name: TemplateMap) -> Floats:
    """Return the planes of a map of the template."""
    volume = load_template(name)
    return _sample(volume.data.astype(np.float32), volume.geometry)


def _sample(data: NDArray[np.float32], geometry: Geometry) -> Floats:
    """Join a coronal, an axial and a sagittal plane; left is left, superior is up."""
    i, j, k = _cut_voxels()
    if geometry.is_close(PREVIEW_GRID):
        planes = [data[:, j], data[:, :, k], data[i]]
    else:
        to_voxel = np.linalg.inv(geometry.affine) @ PREVIEW_GRID.affine
        lowest = float(data.min())
        planes = [
            map_coordinates(data, at, order=1, cval=lowest)
            for at in _plane_points(to_voxel)
        ]
    upright = [np.asarray(plane[:, ::-1].T, dtype=np.float64) for plane in planes]
    height = max(len(plane) for plane in upright)
    padded = []
    for plane in upright:
        above = (height - len(plane)) // 2
        rows = (above, height - len(plane) - above)
        padded.append(np.pad(plane, (rows, (0, 0)), constant_values=plane.min()))
    return np.hstack(padded)


def _cut_voxels() -> tuple[int, int, int]:
    to_voxel = np.linalg.inv(PREVIEW_GRID.affine)
    i, j, k = np.rint(to_voxel[:3, :3] @ _CUTS + to_voxel[:3, 3]).astype(int)
    return int(i), int(j), int(k)


def _plane_points(to_voxel: Floats) -> Iterator[Floats]:
    """Yield the voxels (3, rows, columns) of the points of each plane."""
    cuts = _cut_voxels()
    for axis in (1, 2, 0):
        ranges = [np.arange(size) for size in PREVIEW_GRID.shape]
        ranges[axis] = np.array([cuts[axis]])
        points = np.stack(np.meshgrid(*ranges, indexing="ij"))
        moved = np.tensordot(to_voxel[:3, :3], points, 1)
        yield np.take(moved + to_voxel[:3, 3, None, None, None], 0, axis=axis + 1)


def _to_indices(values: Floats, inside: Flags) -> NDArray[np.uint8]:
    """Return the index of a grey of each pixel, or that of the edge of the mask."""
    shown = values[inside] if inside.any() else values
    low, high = np.percentile(shown, (0.0, 99.5))
    unit = np.clip((values - low) / max(float(high - low), 1e-6), 0.0, 1.0)
    indices = np.round((_N_GREYS - 1) * unit).astype(np.uint8)
    # Outside of the mask, so that no brain is hidden.
    around = np.pad(inside, 1)
    rows, columns = around[:-2, 1:-1] | around[2:, 1:-1], around[1:-1, :-2]
    indices[(rows | columns | around[1:-1, 2:]) & ~inside] = _N_GREYS
    return np.asarray(indices, dtype=np.uint8)


def _encode(indices: NDArray[np.uint8], text: str) -> bytes:
    height, width = indices.shape
    even = np.pad(indices, ((0, 0), (0, width % 2)))
    packed = np.bitwise_or(even[:, ::2] * np.uint8(16), even[:, 1::2])
    greys = np.rint(np.linspace(0, 255, _N_GREYS)).astype(np.uint8)
    palette = np.repeat(greys, 3).tobytes() + bytes(_EDGE)
    # 4 bits a pixel, of a palette.
    header, chunks = (width, height, 4, 3), {b"PLTE": palette}
    return write_png(header, packed, chunks, text=(_KEYWORD, text), level=6)
