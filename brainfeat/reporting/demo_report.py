"""The demo's page: one HTML file that needs no network, no script, no server."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brainfeat.io.atomic import atomic_write
from brainfeat.reporting.figures import encode_png, legend_html, scatter_svg
from brainfeat.reporting.page import (
    fact_table,
    frame,
    notes,
    render_page,
    score_table,
)
from brainfeat.reporting.probe import ProbeScores

__all__ = ["DemoReport", "SliceView", "write_demo_report"]


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
        notes(report.caveats),
        "<h2>Can a linear classifier read the disease?</h2>",
        _score_table(report.scores),
        "<h2>The cohort in the encoder's eyes</h2>",
        _scatter(report),
        "<h2>Some of the subjects</h2>",
        _gallery(report.views),
        "<h2>What was run</h2>",
        fact_table(report.facts),
    ]
    page = render_page("brainfeat demo", frame(sections))
    with atomic_write(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def _score_table(scores: Sequence[ProbeScores]) -> str:
    lines = [
        (score.name, str(score.n_features), f"{score.mean:.2f}", f"{score.spread:.2f}")
        for score in scores
    ]
    n_repeats, n_folds = scores[0].auc.shape
    return f"""{score_table(("features", "number", "AUC", "spread"), lines)}
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
    return f"""<div class="brains small">
{figures}
</div>
<p>Coronal slices through the medial temporal lobes, after preprocessing: this is what
the encoder is given. The left of the brain is on the left.</p>"""
