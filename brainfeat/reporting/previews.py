"""Pictures of preprocessed scans under the outline of the template."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from brainfeat.display.png import encode_png
from brainfeat.preprocessing.preprocessed import PreprocessedSubject
from brainfeat.preprocessing.quality import Quality
from brainfeat.preprocessing.resampling import resample
from brainfeat.preprocessing.template import TemplateMap, load_template
from brainfeat.volume import Geometry, Volume

__all__ = ["Outline", "Preview", "draw_preview", "preview_html", "rank_previews"]

Floats = NDArray[np.float64]
_Point = tuple[float, float]

_CUTS = (3.0, -20.0, 8.0)  # x, y, z in MNI152 mm
_LIMIT = -3.5  # robust z-score, below which a preview is suspect
_LEAST_SPREAD = 0.01  # a cohort of equal scans has no outliers


class Preview(NamedTuple):
    """Cuts of one subject, side by side, with the quality of its alignment."""

    name: str
    pixels: NDArray[np.uint8]
    quality: Quality
    overlap: float  # Dice coefficient of foreground and template


@dataclass(frozen=True, eq=False)
class Outline:
    """The template on the grid of the previews."""

    brain: NDArray[np.bool_]
    geometry: Geometry  # of the brain and of previews, in template mm
    symbol: str  # SVG with the id ``template``, drawn once for a page

    @classmethod
    def draw(cls, geometry: Geometry) -> "Outline":
        """Draw the outlines of brain and white matter."""
        brain, white = (_on_grid(name, geometry) for name in _OUTLINED)
        strip = _strip(brain, geometry)
        paths = "".join(
            f'<path d="{_contour(_strip(data, geometry))}" fill="none" '
            f'stroke="{color}" stroke-width="{width}"/>'
            for data, color, width in ((white, "#56b4e9", 0.5), (brain, "#e69f00", 0.9))
        )
        height, width = strip.shape
        return cls(
            brain >= 0.5,
            geometry,
            f'<svg class="hidden" aria-hidden="true"><symbol id="template" '
            f'viewBox="0 0 {width} {height}">{paths}</symbol></svg>',
        )


_OUTLINED: tuple[TemplateMap, TemplateMap] = ("brain_mask", "white_matter")


def draw_preview(name: str, subject: PreprocessedSubject, outline: Outline) -> Preview:
    """Draw the first modality of a subject on the outline's grid."""
    data, foreground = subject.data[int(np.argmax(subject.present))], subject.foreground
    if not subject.geometry.is_close(outline.geometry):
        data = _resampled(data, subject.geometry, outline.geometry)
        inside = foreground.astype(np.float32)
        foreground = _resampled(inside, subject.geometry, outline.geometry) >= 0.5
    shown = data[foreground] if foreground.any() else data
    low, high = np.percentile(shown, (0.0, 99.5))
    unit = np.clip((data - low) / max(float(high - low), 1e-6), 0.0, 1.0)
    strip = _strip(unit, outline.geometry)
    both = 2.0 * (foreground & outline.brain).sum()
    overlap = both / (foreground.sum() + outline.brain.sum())
    pixels = np.round(255 * strip).astype(np.uint8)
    return Preview(name, pixels, subject.quality, float(overlap))


def _resampled(
    data: NDArray[np.float32], here: Geometry, there: Geometry
) -> NDArray[np.float32]:
    low = float(data.min())
    values = resample(Volume(data, here), there, np.eye(4), outside=low)
    return np.asarray(values, np.float32)


def rank_previews(previews: Sequence[Preview]) -> list[tuple[Preview, bool]]:
    """Sort previews, the most suspect first, with whether each is suspect."""
    # Suspect are failed or doubtful alignments, and values far below the cohort's.
    similarity = _robust_scores([preview.quality.similarity for preview in previews])
    overlap = _robust_scores([preview.overlap for preview in previews])
    score = np.minimum(similarity, overlap)
    doubtful = [preview.quality.doubt != "" for preview in previews]
    order = np.lexsort([score, ~np.array(doubtful, bool)])
    return [(previews[i], bool(score[i] < _LIMIT or doubtful[i])) for i in order]


def preview_html(preview: Preview, *, is_suspect: bool) -> str:
    """Write one preview as a figure; the page must hold the outline's symbol."""
    height, width = preview.pixels.shape
    name = escape(preview.name)
    similarity = f"similarity {preview.quality.similarity:.2f}"
    if np.isnan(preview.quality.similarity):
        similarity = "not aligned"
    reasons = escape(preview.quality.doubt)
    doubt = f"; in doubt: {reasons}" if reasons else ""
    return (
        f"<figure{' class=suspect' if is_suspect else ''}>"
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{name}">'
        f'<image width="{width}" height="{height}" '
        f'href="{encode_png(preview.pixels)}"/>'
        f'<use href="#template" width="{width}" height="{height}"/></svg>'
        f"<figcaption>{name}: {similarity}, overlap {preview.overlap:.2f}, "
        f"brain {preview.quality.brain_ml:.0f} ml{doubt}</figcaption></figure>"
    )


def _on_grid(name: TemplateMap, geometry: Geometry) -> NDArray[np.float32]:
    volume = load_template(name)
    data = volume.data.astype(np.float32)
    return resample(Volume(data, volume.geometry), geometry, np.eye(4))


def _strip(data: NDArray[np.floating], geometry: Geometry) -> Floats:
    """Join a coronal, an axial and a sagittal cut; left is left, superior is up."""
    to_voxel = np.linalg.inv(geometry.affine)
    voxel = np.rint(to_voxel[:3, :3] @ _CUTS + to_voxel[:3, 3]).astype(int)
    i, j, k = np.clip(voxel, 0, np.array(data.shape) - 1)
    cuts = [data[:, j, ::-1].T, data[:, ::-1, k].T, data[i, :, ::-1].T]
    height = max(len(cut) for cut in cuts)
    padded = [_to_height(np.asarray(cut, np.float64), height) for cut in cuts]
    return np.hstack(padded)


def _to_height(cut: Floats, height: int) -> Floats:
    above = (height - len(cut)) // 2
    return np.pad(cut, ((above, height - len(cut) - above), (0, 0)))


def _contour(values: Floats, level: float = 0.5) -> str:
    """Write a level line as an SVG path, by marching squares."""
    segments = []
    rows = len(values)
    is_high = values >= level
    for r in range(rows - 1):
        # Visit only squares whose corners differ.
        corners = is_high[r : r + 2, :-1].sum(axis=0) + is_high[r : r + 2, 1:].sum(0)
        for c in np.flatnonzero((corners > 0) & (corners < 4)):
            crossings = _crossings(values, r, int(c), level)
            pairs = zip(crossings[::2], crossings[1::2], strict=False)
            for (x0, y0), (x1, y1) in pairs:
                segments.append(f"M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}")
    return "".join(segments)


def _crossings(values: Floats, r: int, c: int, level: float) -> list[_Point]:
    """Return where the level crosses the edges of a square, in order."""
    corners = [(r, c), (r, c + 1), (r + 1, c + 1), (r + 1, c)]
    points = []
    for (r0, c0), (r1, c1) in zip(corners, corners[1:] + corners[:1], strict=True):
        first, second = values[r0, c0], values[r1, c1]
        if (first >= level) != (second >= level):
            fraction = (level - first) / (second - first)
            # The centre of a pixel lies half a unit from its corner.
            x, y = c0 + fraction * (c1 - c0), r0 + fraction * (r1 - r0)
            points.append((x + 0.5, y + 0.5))
    return points


def _robust_scores(values: Sequence[float]) -> Floats:
    """Return robust z-scores; -inf for missing values."""
    array = np.asarray(values, dtype=np.float64)
    known = array[np.isfinite(array)]
    if not len(known):
        return np.full(len(array), -np.inf)
    spread = 1.4826 * np.median(np.abs(known - np.median(known)))
    scores = (array - np.median(known)) / max(float(spread), _LEAST_SPREAD)
    return np.where(np.isfinite(array), scores, -np.inf)
