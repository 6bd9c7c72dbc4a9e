"""The demo's page: one HTML file that needs no network, no script, no server."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brainfeat.atomic import atomic_write
from brainfeat.reporting.figures import encode_png, legend_html, scatter_svg
from brainfeat.reporting.probe import ProbeScores

__all__ = ["DemoReport", "SliceView", "write_demo_report"]

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.55 system-ui, sans-serif; margin: 0 auto; max-width: 46rem;
       padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0.5rem 0; }
h2 { font-size: 1.15rem; margin: 2rem 0 0.5rem; }
.note { border-left: 4px solid #d55e00; padding: 0.25rem 0.75rem; margin: 1rem 0; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid #8886; padding: 0.35rem 0.5rem 0.35rem 0;
         text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; white-space: nowrap;
                       font-variant-numeric: tabular-nums; }
td.path { overflow-wrap: anywhere; }
figure { margin: 0; }
figcaption { font-size: 0.9rem; opacity: 0.85; margin-top: 0.35rem; }
.brains { display: grid; gap: 0.5rem;
          grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); }
.brains img { width: 100%; display: block; background: #000; border-radius: 4px; }
svg { width: 100%; height: auto; display: block; font: 13px system-ui, sans-serif;
      fill: currentColor; }
.key { white-space: nowrap; margin-right: 0.6em; }
.key svg { display: inline; width: 1em; height: 1em; vertical-align: -0.12em;
           margin-right: 0.25em; }
code { font-size: 0.92em; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True, eq=False)
class SliceView:
    """A picture of one subject.

    Parameters
    ----------
    caption : str
        Who it is.
    pixels : ndarray of uint8 of shape (height, width)
        0 is black.
    """

    caption: str
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False, kw_only=True)
class DemoReport:
    """What the demo did, as the page tells it.

    Parameters
    ----------
    facts : sequence of (str, str)
        What was run, and where the files are: names and values.
    caveats : sequence of str
        What must not be concluded.
    views : sequence of SliceView
        Some subjects.
    scores : sequence of ProbeScores
        One line of the table each.
    projection : ndarray of shape (n_subjects, 2)
        First two principal components of the embeddings.
    explained : tuple of float
        Share of the variance of each, from 0 to 1.
    labels, names : sequence of str
        Class and name of each subject.
    """

    facts: Sequence[tuple[str, str]]
    caveats: Sequence[str]
    views: Sequence[SliceView]
    scores: Sequence[ProbeScores]
    projection: NDArray[np.floating]
    explained: tuple[float, float]
    labels: Sequence[str]
    names: Sequence[str]


def write_demo_report(path: Path, report: DemoReport) -> Path:
    """Write the page.

    Parameters
    ----------
    path : Path
        HTML file to create or replace.
    report : DemoReport
        What to tell.

    Returns
    -------
    Path
        The file.
    """
    sections = [
        "<h1>brainfeat demo: from simulated scans to a classifier</h1>",
        *(f'<p class="note">{escape(text)}</p>' for text in report.caveats),
        "<h2>Can a linear classifier read the disease?</h2>",
        _score_table(report.scores),
        "<h2>The cohort in the encoder's eyes</h2>",
        _scatter(report),
        "<h2>Some of the subjects</h2>",
        _gallery(report.views),
        "<h2>What was run</h2>",
        _fact_table(report.facts),
    ]
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>brainfeat demo</title>
<style>{_STYLE}</style>
</head>
<body>
{chr(10).join(sections)}
</body>
</html>
"""
    with atomic_write(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def _score_table(scores: Sequence[ProbeScores]) -> str:
    rows = "\n".join(
        f"<tr><td>{escape(score.name)}</td>"
        f'<td class="number">{score.n_features}</td>'
        f'<td class="number">{score.mean:.2f}</td>'
        f'<td class="number">{score.spread:.2f}</td></tr>'
        for score in scores
    )
    n_repeats, n_folds = scores[0].auc.shape
    return f"""<table>
<tr><th>features</th><th class="number">number</th>
<th class="number">AUC</th><th class="number">spread</th></tr>
{rows}
</table>
<p>Area under the ROC curve of a logistic regression on standardised features, in
{n_folds}-fold cross-validation, {n_repeats} times with other folds; no subject is in
training and test at once. Spread is the standard deviation over the repeats: it tells
how much the choice of folds matters, not how another cohort would turn out. 0.5 is
chance.</p>"""


def _scatter(report: DemoReport) -> str:
    first, second = (f"{100 * share:.0f} %" for share in report.explained)
    axes = f"component 1 ({first})", f"component 2 ({second})"
    plot = scatter_svg(report.projection, report.labels, report.names, axes)
    return f"""<figure>
{plot}
<figcaption>Principal components of the embeddings, one mark a subject, with their share
of the variance: {legend_html(report.labels)}</figcaption>
</figure>"""


def _gallery(views: Sequence[SliceView]) -> str:
    figures = "\n".join(
        f'<figure><img src="{encode_png(view.pixels)}" alt="{escape(view.caption)}">'
        f"<figcaption>{escape(view.caption)}</figcaption></figure>"
        for view in views
    )
    return f"""<div class="brains">
{figures}
</div>
<p>Coronal slices through the medial temporal lobes, after preprocessing: this is what
the encoder is given. The left of the brain is on the left.</p>"""


def _fact_table(facts: Sequence[tuple[str, str]]) -> str:
    rows = "\n".join(
        f'<tr><th>{escape(name)}</th><td class="path">{escape(value)}</td></tr>'
        for name, value in facts
    )
    return f"<table>\n{rows}\n</table>"
