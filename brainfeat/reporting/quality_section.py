"""Whether the brains of a cohort were found: rows in doubt, and volumes."""

__all__ = ["quality_section"]

from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd

from brainfeat.preprocessing.quality import Quality
from brainfeat.reporting.cohort import Cohort
from brainfeat.reporting.page import score_table, scroll_box
from brainfeat.reporting.previews import Preview
from brainfeat.reporting.volume_histogram import volume_histogram_svg
from brainfeat.subjects.subject import QUALITY_COLUMNS

_MOST_LISTED = 50


def quality_section(cohort: Cohort, previews: Sequence[Preview]) -> list[str]:
    """List rows in doubt, worst first, and draw the volumes of all brains.

    Values are those of the table, or else of the previews; without any, there is no
    section.
    """
    found = _read_columns(cohort) or [(item.name, item.quality) for item in previews]
    if not found:
        return []
    doubtful = sorted((row for row in found if row[1].doubt), key=_badness)
    volumes = np.array([quality.brain_ml for _, quality in found])
    in_doubt = np.array([quality.doubt != "" for _, quality in found])
    return [
        "<h2>Brains that were found</h2>",
        f"<p>{len(doubtful)} of {len(found)} rows are in doubt"
        f"{', the worst first:' if doubtful else '.'}</p>",
        *([_doubt_table(doubtful)] if doubtful else []),
        _quality_table(found),
        '<div class="figures"><figure>',
        volume_histogram_svg(volumes, in_doubt),
        "<figcaption>Volume of the brain that was found, in the subject's own space: "
        f"median {np.median(volumes):.0f} ml, {volumes.min():.0f} to "
        f"{volumes.max():.0f} ml. Orange: rows in doubt.</figcaption></figure></div>",
    ]


def _read_columns(cohort: Cohort) -> list[tuple[str, Quality]]:
    """Return the quality of the rows of which the table knows it."""
    if not set(QUALITY_COLUMNS) <= set(cohort.known):
        return []
    values = cohort.known[[*QUALITY_COLUMNS]]
    similarity, volume = (
        pd.to_numeric(values[name], errors="coerce") for name in QUALITY_COLUMNS[:2]
    )
    doubts = values[QUALITY_COLUMNS[2]].fillna("").map(str)
    rows = zip(cohort.names, similarity, volume, doubts, strict=True)
    return [(name, Quality(*rest)) for name, *rest in rows if np.isfinite(rest[1])]


def _quality_table(rows: Sequence[tuple[str, Quality]]) -> str:
    """Summarise ``qc_similarity`` and ``qc_brain_ml``, and count reasons of doubt."""
    columns = {
        "qc_similarity": ([quality.similarity for _, quality in rows], 2),
        "qc_brain_ml": ([quality.brain_ml for _, quality in rows], 0),
    }
    lines = []
    for name, (numbers, n_decimals) in columns.items():
        known = np.array(numbers)[np.isfinite(numbers)]
        if len(known):
            quantiles = np.quantile(known, (0.0, 0.05, 0.5, 0.95, 1.0))
            lines.append((name, *(f"{q:.{n_decimals}f}" for q in quantiles)))
    return score_table(("", "least", "5 %", "median", "95 %", "most"), lines)


def _badness(row: tuple[str, Quality]) -> tuple[bool, float]:
    similarity = row[1].similarity
    return not np.isnan(similarity), similarity


def _doubt_table(rows: Sequence[tuple[str, Quality]]) -> str:
    lines = [
        f"<tr><td>{_breakable(name)}</td><td>{escape(quality.doubt)}</td>"
        f'<td class="number">{_similarity(quality)}</td>'
        f'<td class="number">{quality.brain_ml:.0f} ml</td></tr>'
        for name, quality in rows[:_MOST_LISTED]
    ]
    n_others = len(rows) - _MOST_LISTED
    more = f"<p>{n_others} more are in the column qc_doubt.</p>" if n_others > 0 else ""
    table = (
        '<table><thead><tr><th>row</th><th>doubt</th><th class="number">similarity</th>'
        f'<th class="number">brain</th></tr></thead><tbody>{"".join(lines)}</tbody>'
        "</table>"
    )
    return scroll_box(table) + more


def _breakable(name: str) -> str:
    """Allow line breaks within a long name."""
    return escape(name).replace("_", "_<wbr>").replace("/", "/<wbr>")


def _similarity(quality: Quality) -> str:
    return "none" if np.isnan(quality.similarity) else f"{quality.similarity:.2f}"
