"""The report about a folder of label maps: overlays, volumes and what stands out."""

__all__ = ["report_on_segmentations"]

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainfeat._version import __version__
from brainfeat.exceptions import BrainfeatError
from brainfeat.io.atomic import atomic_write
from brainfeat.reporting.overlays import class_colors, draw_overlay
from brainfeat.reporting.page import fact_table, frame, notes, render_page, score_table
from brainfeat.segmentation.derivatives import REPORT_NAME
from brainfeat.segmentation.predictor import FittedSegmentation
from brainfeat.segmentation.volumes import UNCERTAINTY
from brainfeat.subjects.failures import describe_failure
from brainfeat.subjects.subject import Outcome
from brainfeat.workers import Prefetch

_OPEN = 24  # scans; the others are folded away
_MOST_OUTLIERS = 30
_LIMIT = 3.5  # robust standard deviations
_FEWEST_TO_COMPARE = 8
_LEAST_SPREAD = 0.02  # of the median: equal volumes have no outliers
_MOST_NAMED = 24
_N_THREADS = 2


def report_on_segmentations(
    folder: Path,
    model: Path,
    estimator: FittedSegmentation,
    rows: Sequence[Mapping[str, Any]],
    failures: Sequence[Outcome[Any]] = (),
) -> Path:
    """Write ``report.html`` beside label maps; ``rows`` are their measures."""
    table = pd.DataFrame(rows)
    names = {k: v for k, v in estimator.names_.items() if k != 0}
    outliers = _find_outliers(table, [f"{name}_ml" for name in names.values()])
    doubtful = table["qc_doubt"].fillna("").map(str)
    uncertain = pd.to_numeric(table[UNCERTAINTY], errors="coerce")
    order = np.lexsort([-uncertain.fillna(-1.0), doubtful == ""])
    sections = [
        f"<h1>Segmentation of {len(table)} scan{'s' if len(table) != 1 else ''}</h1>",
        fact_table(_facts(model, estimator)),
        notes(f"Failed: {describe_failure(failure)}" for failure in failures),
        "<h2>Dice of people that were held out</h2>",
        _dice_section(estimator),
        "<h2>Volumes</h2>",
        _volume_table(table, names),
        "<h2>Outlying volumes</h2>",
        _outlier_section(table, outliers),
        "<h2>Scans, the worst first</h2>",
        "<p>Scans in doubt come first, then by their mean uncertainty: one minus the "
        "probability of the label, over voxels that may be of a structure. Framed are "
        "scans in doubt or with an outlying volume. The planes are those that show "
        "most of the structures; left is left.</p>",
        _legend(names),
        _scan_figures(folder, table.iloc[order], [*names], {r for r, *_ in outliers}),
    ]
    path = folder / REPORT_NAME
    title = f"brainfeat: segmentation of {len(table)} scans"
    with atomic_write(path) as partial:
        partial.write_text(render_page(title, frame(sections)), encoding="utf-8")
    return path


def _facts(model: Path, estimator: FittedSegmentation) -> dict[str, str]:
    settings = estimator.prediction_settings()
    return {
        "model": str(model),
        "classes": ", ".join(n for k, n in estimator.names_.items() if k != 0),
        "modalities": ", ".join(estimator.modalities_),
        "where": "in the brain" if settings.in_brain else "in the whole head",
        "grid": f"of {settings.grid or 'the first image'}",
        "version": f"brainfeat {__version__}",
    }


def _dice_section(estimator: FittedSegmentation) -> str:
    scores = estimator.held_out_scores_
    lines = [(name, _text(score, 2)) for name, score in scores.items()]
    if not lines or all(text == "" for _, text in lines):
        return "<p>The model was not cross-validated: its Dice is unknown.</p>"
    return score_table(("structure", "Dice"), lines) + (
        "<p>By cross-validation over the people of the training. Scans of another "
        "scanner or another disease may be segmented less well.</p>"
    )


def _volume_table(table: pd.DataFrame, names: Mapping[int, str]) -> str:
    lines = []
    for name in [*names.values(), "brain"]:
        ml = pd.to_numeric(table[f"{name}_ml"], errors="coerce")
        count = table.get(f"{name}_count")
        low, median, high = map(_ml, (ml.min(), ml.median(), ml.max()))
        parts = "" if count is None else _text(float(count.median()), 0)
        lines.append((name, f"{median} [{low}, {high}]", parts))
    head = ("structure", "ml: median [range]", "parts")
    return score_table(head, lines) + (
        "<p>Each scan is a row of <code>volumes.csv</code>. Parts, of which the median "
        "is shown, are voxels that touch by a face, an edge or a corner.</p>"
    )


def _find_outliers(
    table: pd.DataFrame, columns: Sequence[str]
) -> list[tuple[int, str, float, float]]:
    """Return row, column, value and robust z-score, the farthest first."""
    if len(table) < _FEWEST_TO_COMPARE:
        return []
    found = []
    for column in columns:
        values = pd.to_numeric(table[column], errors="coerce").to_numpy(float)
        middle = float(np.nanmedian(values))
        spread = 1.4826 * float(np.nanmedian(np.abs(values - middle)))
        spread = max(spread, _LEAST_SPREAD * abs(middle), 1e-6)
        scores = (values - middle) / spread
        found += [
            (int(row), column, float(values[row]), float(scores[row]))
            for row in np.flatnonzero(np.abs(scores) > _LIMIT)
        ]
    return sorted(found, key=lambda item: -abs(item[3]))


def _outlier_section(
    table: pd.DataFrame, outliers: Sequence[tuple[int, str, float, float]]
) -> str:
    if len(table) < _FEWEST_TO_COMPARE:
        return f"<p>Takes at least {_FEWEST_TO_COMPARE} scans to compare.</p>"
    if not outliers:
        return f"<p>None is beyond {_LIMIT} robust standard deviations.</p>"
    lines = [
        (
            f"{_name(table.iloc[row])}: {column.removesuffix('_ml')}",
            _text(value, 2),
            f"{score:+.1f}",
        )
        for row, column, value, score in outliers[:_MOST_OUTLIERS]
    ]
    n_others = len(outliers) - _MOST_OUTLIERS
    more = f"<p>{n_others} more are farther than {_LIMIT}.</p>" if n_others > 0 else ""
    return score_table(("scan and structure", "ml", "robust z-score"), lines) + more


def _legend(names: Mapping[int, str]) -> str:
    keys = [
        f'<span class="key"><svg viewBox="0 0 16 16" aria-hidden="true"><rect '
        f'width="16" height="16" fill="rgb{color}"/></svg>{escape(name)}</span>'
        for color, name in zip(class_colors(len(names)), names.values(), strict=True)
    ]
    rest = f" and {len(keys) - _MOST_NAMED} more" if len(keys) > _MOST_NAMED else ""
    return f"<p>{' '.join(keys[:_MOST_NAMED])}{rest}</p>"


def _scan_figures(
    folder: Path, table: pd.DataFrame, classes: Sequence[int], outlying: set[int]
) -> str:
    def draw(item: tuple[Any, Any]) -> str:
        index, row = item
        is_framed = index in outlying or bool(_doubt(row))
        return _figure(folder, row, classes, is_framed=is_framed)

    with Prefetch(draw, table.iterrows(), n_threads=_N_THREADS, n_ahead=4) as drawn:
        figures = list(drawn)
    parts = [f'<div class="brains">{"".join(figures[:_OPEN])}</div>']
    if len(figures) > _OPEN:
        parts.append(
            f"<details><summary>Show {len(figures) - _OPEN} more</summary>"
            f'<div class="brains">{"".join(figures[_OPEN:])}</div></details>'
        )
    return "\n".join(parts)


def _figure(
    folder: Path, row: pd.Series, classes: Sequence[int], *, is_framed: bool
) -> str:
    name = escape(_name(row))
    caption = f"{name}: uncertainty {_text(row[UNCERTAINTY], 2) or 'none'}"
    caption += f", brain {float(row['qc_brain_ml']):.0f} ml"
    if doubt := _doubt(row):
        caption += f"; in doubt: {escape(doubt)}"
    try:
        drawn = draw_overlay(Path(row["image"]), folder / row["label_map"], classes)
    except (BrainfeatError, OSError) as error:
        caption += f"; not shown: {escape(str(error))}"
        return f"<figure><figcaption>{caption}</figcaption></figure>"
    size = f'width="{drawn.width}" height="{drawn.height}"'
    return (
        f"<figure{' class=suspect' if is_framed else ''}>"
        f'<svg viewBox="0 0 {drawn.width} {drawn.height}" role="img" '
        f'aria-label="{name}"><image {size} href="{drawn.scan}"/>'
        f'<image {size} href="{drawn.labels}"/></svg>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _name(row: pd.Series) -> str:
    """Name a scan by its participant and session, or its label map."""
    names = [str(v) for k in ("participant_id", "session_id") if _is_text(v := row[k])]
    return " ".join(names) or str(row["label_map"])


def _doubt(row: pd.Series) -> str:
    return str(row["qc_doubt"]) if _is_text(row["qc_doubt"]) else ""


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _ml(value: float) -> str:
    return _text(value, 0 if value >= 100 else 2)


def _text(value: Any, digits: int) -> str:
    """Format a number; nothing if it is missing."""
    known = value is not None and not math.isnan(float(value))
    return f"{float(value):.{digits}f}" if known else ""
