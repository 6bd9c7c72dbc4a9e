"""Small pictures of preprocessed scans, over which the template's outline lies."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from brainfeat.preprocessing.alignment import DOUBTFUL_SIMILARITY
from brainfeat.preprocessing.preprocessed import PreprocessedSubject
from brainfeat.preprocessing.resampling import resample
from brainfeat.preprocessing.template import TemplateMap, load_template
from brainfeat.reporting.figures import encode_png
from brainfeat.volume import Geometry, Volume

__all__ = ["Outline", "Preview", "draw_preview", "preview_html", "rank_previews"]

Floats = NDArray[np.float64]

_CUTS = (3.0, -20.0, 8.0)  # x, y, z in MNI152 mm
_LIMIT = -3.5  # robust standard scores, below which a preview is flagged
_LEAST_SPREAD = 0.01  # a cohort of equal scans has no outliers


class Preview(NamedTuple):
    """One subject after preprocessing.

    Attributes
    ----------
    name : str
        Who it is.
    pixels : ndarray of uint8 of shape (height, width)
        Coronal, axial and sagittal cuts side by side.
    similarity : float
        Correlation with a model of a head; NaN without alignment.
    overlap : float
        Dice of the foreground and the template's brain.
    """

    name: str
    pixels: NDArray[np.uint8]
    similarity: float
    overlap: float


@dataclass(frozen=True, eq=False)
class Outline:
    """The template on a grid: its brain, and where its cuts lie in a preview.

    Parameters
    ----------
    brain : ndarray of bool of shape (size_i, size_j, size_k)
        The template's brain.
    symbol : str
        An SVG ``<symbol>`` with the id ``template``, for all previews.
    """

    brain: NDArray[np.bool_]
    symbol: str

    @classmethod
    def draw(cls, geometry: Geometry) -> "Outline":
        """Draw the outlines of brain and white matter.

        Parameters
        ----------
        geometry : Geometry
            Grid of the previews, in MNI152 millimetres.

        Returns
        -------
        Outline
            Drawn once for a page.
        """
        brain, white = (_on_grid(name, geometry) for name in _OUTLINED)
        strip = _strip(brain, geometry)
        paths = "".join(
            f'<path d="{_contour(_strip(data, geometry))}" fill="none" '
            f'stroke="{color}" stroke-width="{width}"/>'
            for data, color, width in (
                (white, "#56b4e9", 0.5),
                (brain, "#e69f00", 0.9),
            )
        )
        height, width = strip.shape
        return cls(
            brain >= 0.5,
            f'<svg class="hidden" aria-hidden="true"><symbol id="template" '
            f'viewBox="0 0 {width} {height}">{paths}</symbol></svg>',
        )


_OUTLINED: tuple[TemplateMap, TemplateMap] = ("brain_mask", "white_matter")


def draw_preview(name: str, subject: PreprocessedSubject, outline: Outline) -> Preview:
    """Draw one subject.

    Parameters
    ----------
    name : str
        Who it is.
    subject : PreprocessedSubject
        Its first modality is drawn.
    outline : Outline
        The template on the same grid.

    Returns
    -------
    Preview
        Picture and quality.
    """
    data = subject.data[int(np.argmax(subject.present))]
    low, high = np.percentile(data[subject.foreground], (0.0, 99.5))
    unit = np.clip((data - low) / max(float(high - low), 1e-6), 0.0, 1.0)
    strip = _strip(unit, subject.geometry)
    both = 2.0 * (subject.foreground & outline.brain).sum()
    overlap = both / (subject.foreground.sum() + outline.brain.sum())
    return Preview(
        name,
        np.round(255 * strip).astype(np.uint8),
        subject.similarity,
        float(overlap),
    )


def rank_previews(previews: Sequence[Preview]) -> list[tuple[Preview, bool]]:
    """Sort previews, the most suspect first.

    Parameters
    ----------
    previews : sequence of Preview
        Of one cohort.

    Returns
    -------
    list of (Preview, bool)
        Each with whether it stands out: it was not aligned, its alignment is
        doubtful, or its similarity or overlap is far below what the cohort has.
    """
    similarity = _robust_scores([preview.similarity for preview in previews])
    overlap = _robust_scores([preview.overlap for preview in previews])
    score = np.minimum(similarity, overlap)
    order = np.argsort(score, kind="stable")
    doubtful = [preview.similarity < DOUBTFUL_SIMILARITY for preview in previews]
    return [(previews[i], bool(score[i] < _LIMIT or doubtful[i])) for i in order]


def preview_html(preview: Preview, *, flagged: bool) -> str:
    """Write one preview; the page must hold the outline's symbol.

    Parameters
    ----------
    preview : Preview
        What to show.
    flagged : bool
        Whether it stands out.

    Returns
    -------
    str
        A ``<figure>``.
    """
    height, width = preview.pixels.shape
    name = escape(preview.name)
    similarity = (
        "not aligned"
        if np.isnan(preview.similarity)
        else f"similarity {preview.similarity:.2f}"
    )
    return (
        f"<figure{' class=flagged' if flagged else ''}>"
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{name}">'
        f'<image width="{width}" height="{height}" '
        f'href="{encode_png(preview.pixels, bits=4)}"/>'
        f'<use href="#template" width="{width}" height="{height}"/></svg>'
        f"<figcaption>{name}: {similarity}, overlap {preview.overlap:.2f}"
        "</figcaption></figure>"
    )


def _on_grid(name: TemplateMap, geometry: Geometry) -> NDArray[np.float32]:
    volume = load_template(name)
    data = volume.data.astype(np.float32)
    return resample(Volume(data, volume.geometry), geometry, np.eye(4))


def _strip(data: NDArray[np.floating], geometry: Geometry) -> Floats:
    """Cut a volume three times; the top is superior or anterior, left is left."""
    to_voxel = np.linalg.inv(geometry.affine)
    places = np.rint(to_voxel[:3, :3] @ _CUTS + to_voxel[:3, 3]).astype(int)
    i, j, k = np.clip(places, 0, np.array(data.shape) - 1)
    cuts = [data[:, j, ::-1].T, data[:, ::-1, k].T, data[i, :, ::-1].T]
    height = max(len(cut) for cut in cuts)
    padded = [_to_height(np.asarray(cut, np.float64), height) for cut in cuts]
    return np.hstack(padded)


def _to_height(cut: Floats, height: int) -> Floats:
    above = (height - len(cut)) // 2
    return np.pad(cut, ((above, height - len(cut) - above), (0, 0)))


def _contour(values: Floats, level: float = 0.5) -> str:
    """Write where values cross a level as an SVG path, square by square."""
    segments = []
    rows = len(values)
    is_high = values >= level
    for r in range(rows - 1):
        # Squares whose corners differ are few: look at those only.
        corners = is_high[r : r + 2, :-1].sum(axis=0) + is_high[r : r + 2, 1:].sum(0)
        for c in np.flatnonzero((corners > 0) & (corners < 4)):
            crossings = _crossings(values, r, int(c), level)
            for (x0, y0), (x1, y1) in zip(
                crossings[::2], crossings[1::2], strict=False
            ):
                segments.append(f"M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}")
    return "".join(segments)


def _crossings(
    values: Floats, r: int, c: int, level: float
) -> list[tuple[float, float]]:
    """Return where the level crosses the edges of a square, in order around it."""
    corners = [(r, c), (r, c + 1), (r + 1, c + 1), (r + 1, c)]
    found = []
    for (r0, c0), (r1, c1) in zip(corners, corners[1:] + corners[:1], strict=True):
        first, second = values[r0, c0], values[r1, c1]
        if (first >= level) != (second >= level):
            share = (level - first) / (second - first)
            # A pixel's middle lies half a unit from its corner.
            found.append((c0 + share * (c1 - c0) + 0.5, r0 + share * (r1 - r0) + 0.5))
    return found


def _robust_scores(values: Sequence[float]) -> Floats:
    """Return robust standard scores; those that are not known are the lowest."""
    array = np.asarray(values, dtype=np.float64)
    known = array[np.isfinite(array)]
    if not len(known):
        return np.full(len(array), -np.inf)
    spread = 1.4826 * np.median(np.abs(known - np.median(known)))
    scores = (array - np.median(known)) / max(float(spread), _LEAST_SPREAD)
    return np.where(np.isfinite(array), scores, -np.inf)
