"""Pictures of preprocessed scans under the outline of the template."""

from collections.abc import Sequence
from functools import cache
from html import escape
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from brainfeat.display.png import png_address
from brainfeat.preprocessing.preview import SubjectPicture, template_strip
from brainfeat.preprocessing.quality import Quality
from brainfeat.preprocessing.template import TemplateMap

__all__ = ["Preview", "outline_symbol", "preview_html", "rank_previews"]

Floats = NDArray[np.float64]
_Point = tuple[float, float]

_LIMIT = -3.5  # robust z-score, below which a preview is suspect
_LEAST_SPREAD = 0.01  # a cohort of equal scans has no outliers


class Preview(NamedTuple):
    """Picture of one subject, with the quality of its alignment."""

    name: str
    picture: SubjectPicture
    quality: Quality


@cache
def outline_symbol() -> str:
    """Draw the outlines of the template's brain and white matter, once for a page.

    It is an SVG with the id ``template``, of the size of one strip of a picture.
    """
    styles = {"white_matter": ("#56b4e9", 0.5), "brain_mask": ("#e69f00", 0.9)}
    paths = "".join(
        f'<path d="{_contour(template_strip(name))}" fill="none" '
        f'stroke="{styles[name][0]}" stroke-width="{styles[name][1]}"/>'
        for name in _OUTLINED
    )
    height, width = template_strip("brain_mask").shape
    return (
        f'<svg class="hidden" aria-hidden="true"><symbol id="template" '
        f'viewBox="0 0 {width} {height}">{paths}</symbol></svg>'
    )


_OUTLINED: tuple[TemplateMap, TemplateMap] = ("white_matter", "brain_mask")


def rank_previews(previews: Sequence[Preview]) -> list[tuple[Preview, bool]]:
    """Sort previews, the most suspect first, with whether each is suspect."""
    # Suspect are failed or doubtful alignments, and values far below the cohort's.
    similarity = _robust_scores([preview.quality.similarity for preview in previews])
    overlap = _robust_scores([preview.picture.overlap for preview in previews])
    score = np.minimum(similarity, overlap)
    doubtful = [preview.quality.doubt != "" for preview in previews]
    order = np.lexsort([score, ~np.array(doubtful, bool)])
    return [(previews[i], bool(score[i] < _LIMIT or doubtful[i])) for i in order]


def preview_html(preview: Preview, *, is_suspect: bool) -> str:
    """Write one preview as a figure; the page must hold the outline's symbol."""
    picture, name = preview.picture, escape(preview.name)
    width, height = picture.width, picture.height
    strip = height // len(picture.modalities)
    outlines = "".join(
        f'<use href="#template" y="{strip * row}" width="{width}" height="{strip}"/>'
        f'<text x="4" y="{strip * row + 13}">{escape(modality)}</text>'
        for row, modality in enumerate(picture.modalities)
    )
    similarity = f"similarity {preview.quality.similarity:.2f}"
    if np.isnan(preview.quality.similarity):
        similarity = "not aligned"
    reasons = escape(preview.quality.doubt)
    doubt = f"; in doubt: {reasons}" if reasons else ""
    return (
        f"<figure{' class=suspect' if is_suspect else ''}>"
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{name}">'
        f'<image width="{width}" height="{height}" '
        f'href="{png_address(picture.png)}"/>{outlines}</svg>'
        f"<figcaption>{name}: {similarity}, overlap {picture.overlap:.2f}, "
        f"brain {preview.quality.brain_ml:.0f} ml{doubt}</figcaption></figure>"
    )


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
