"""The page about a cohort: inputs, outliers, maps, scores and provenance."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from brainfeat.evaluation import (
    Reliability,
    cohort_distances,
    evaluate_reliability,
)
from brainfeat.exceptions import InputError
from brainfeat.reporting.cohort import Cohort
from brainfeat.reporting.figures import legend_html, scatter_svg
from brainfeat.reporting.page import fact_table, frame, notes, score_table
from brainfeat.reporting.previews import (
    Outline,
    Preview,
    preview_html,
    rank_previews,
)
from brainfeat.reporting.probe_section import probe_section

__all__ = ["Inputs", "report_body"]

_OPEN_PREVIEWS = 24  # the others are folded away
_MOST_CLASSES = 16  # that marks can tell apart
_MOST_MARKS = 5000  # in a map that a browser is quick to draw
_MOST_OUTLIERS = 10
_FEWEST_TO_COMPARE = 10


@dataclass(frozen=True, eq=False, kw_only=True)
class Inputs:
    """What the images gave, beside the embeddings.

    Parameters
    ----------
    outline : Outline or None
        The template on the grid of the previews.
    previews : sequence of Preview
        Subjects after preprocessing.
    failures : sequence of (str, str)
        Names of those that could not be shown, and why.
    importance : DataFrame or None
        Regions, as in `Attribution.importance`.
    remarks : sequence of str
        What was left out, and why.
    """

    outline: Outline | None = None
    previews: Sequence[Preview] = ()
    failures: Sequence[tuple[str, str]] = ()
    importance: pd.DataFrame | None = None
    remarks: Sequence[str] = field(default_factory=tuple)


def report_body(
    title: str,
    facts: Sequence[tuple[str, str]],
    cohort: Cohort,
    inputs: Inputs,
    provenance: Mapping[str, Any],
) -> str:
    """Write all sections.

    Parameters
    ----------
    title : str
        Headline.
    facts : sequence of (str, str)
        What was run.
    cohort : Cohort
        Embeddings and what is known.
    inputs : Inputs
        What was seen of the images.
    provenance : mapping
        JSON values, shown in full.

    Returns
    -------
    str
        One element, with its own style.
    """
    sections = [
        f"<h1>{escape(title)}</h1>",
        "<h2>What was run</h2>",
        fact_table(facts),
        *probe_section(cohort),
        *_importance_section(inputs),
        "<h2>Embedding map</h2>",
        _maps(cohort),
        "<h2>Outliers</h2>",
        _outliers(cohort),
        *_reliability_section(cohort),
        "<h2>Inputs after preprocessing</h2>",
        _inputs(inputs),
        "<h2>Provenance</h2>",
        f"<details><summary>All settings</summary><pre>"
        f"{escape(json.dumps(provenance, indent=1, default=str))}</pre></details>",
    ]
    return frame(sections)


def _importance_section(inputs: Inputs) -> list[str]:
    importance = inputs.importance
    if importance is None:
        return []
    largest = max(float(importance["importance"].max()), 1e-12)
    lines = "\n".join(
        f'<tr><td class="path">{_breakable(str(name))}<span class="bar" style="width:'
        f'{100 * max(row["importance"], 0.0) / largest:.0f}%"></span></td>'
        f'<td class="number">{row["importance"]:.1f}</td>'
        f'<td class="number">{row["effect"]:.3f}</td>'
        f'<td class="number">{100 * row["share"]:.1f} %</td></tr>'
        for name, row in importance.iterrows()
    )
    return [
        "<h2>Which regions do the decisions rest on?</h2>",
        notes(inputs.remarks),
        '<table><thead><tr><th>region</th><th class="number">importance</th>'
        '<th class="number">effect</th><th class="number">share</th></tr></thead>'
        f"<tbody>{lines}</tbody></table>",
        "<p>Effect: how much further apart the decisions on the two classes are than "
        "when the tokens of a region are replaced by those of the average subject, in "
        "held-out subjects. Share: of the brain's tokens. Importance: effect over "
        "share. Tokens know their surroundings, so a neighbour may speak for a "
        "region.</p>",
    ]


def _breakable(name: str) -> str:
    """Let long names of regions break where their words end."""
    return escape(name).replace("_", "_<wbr>")


def _maps(cohort: Cohort) -> str:
    if min(cohort.embeddings.shape) < 2 or len(cohort.names) < 3:
        return "<p>Too few rows or features for a map.</p>"
    if not np.ptp(cohort.embeddings, axis=0).any():
        return "<p>No map: all rows are equal.</p>"
    rows = _draw_rows(len(cohort.names))
    known = [("group", cohort.label), ("site", cohort.site), ("age", cohort.age)]
    told = [by for by in known if by[1] is not None] or [("row", None)]
    places, axes = _project(cohort.embeddings)
    figures = [_scatter(cohort, rows, places[rows], axes, *by) for by in told]
    if find_spec("umap") is not None and len(rows) > 15:
        places, axes = _umap(cohort.embeddings[rows]), ("UMAP 1", "UMAP 2")
        figures.append(_scatter(cohort, rows, places, axes, *told[0]))
    shown = ""
    if len(rows) < len(cohort.names):
        shown = f"<p>{len(rows)} of {len(cohort.names)} rows, drawn at random.</p>"
    return f'{shown}<div class="figures">' + "\n".join(figures) + "</div>"


def _draw_rows(n_rows: int) -> NDArray[np.intp]:
    generator = np.random.default_rng(0)
    return np.sort(generator.permutation(n_rows)[:_MOST_MARKS])


def _project(
    embeddings: NDArray[np.floating],
) -> tuple[NDArray[np.floating], tuple[str, str]]:
    pca = PCA(2, random_state=0)
    places = pca.fit_transform(StandardScaler().fit_transform(embeddings))
    first, second = (f"{100 * share:.0f} %" for share in pca.explained_variance_ratio_)
    return places, (f"component 1 ({first})", f"component 2 ({second})")


def _umap(embeddings: NDArray[np.floating]) -> NDArray[np.floating]:
    scaled = StandardScaler().fit_transform(embeddings)
    with warnings.catch_warnings():
        # It tells that a seed costs threads.
        warnings.simplefilter("ignore", UserWarning)
        model = import_module("umap").UMAP(random_state=0)
        return np.asarray(model.fit_transform(scaled), dtype=np.float64)


def _scatter(
    cohort: Cohort,
    rows: NDArray[np.intp],
    places: NDArray[np.floating],
    axes: tuple[str, str],
    what: str,
    column: str | None,
) -> str:
    names = [cohort.names[row] for row in rows]
    labels = ["subject"] * len(rows)
    told = "."
    if column is not None:
        labels = _classes(cohort, column, rows)
        told = f", by {what}: {legend_html(labels)}"
    return (
        f"<figure>{scatter_svg(places, labels, names, axes)}"
        f"<figcaption>One mark a row{told}</figcaption></figure>"
    )


def _classes(cohort: Cohort, column: str, rows: NDArray[np.intp]) -> list[str]:
    """Name the classes of rows: values, or the quarters that numbers lie in."""
    values = cohort.known[column]
    n_values = values.nunique()
    numbers = pd.to_numeric(values, errors="coerce")
    if n_values > 4 and numbers[values.notna()].notna().all():
        quarters, edges = pd.qcut(
            numbers, 4, labels=False, retbins=True, duplicates="drop"
        )
        ends = _write_apart(edges)
        return [
            "unknown" if pd.isna(q) else f"{ends[int(q)]} to {ends[int(q) + 1]}"
            for q in quarters.iloc[rows]
        ]
    texts = cohort.texts(column)
    if n_values > _MOST_CLASSES:
        common = set(texts.value_counts().index[: _MOST_CLASSES - 1])
        texts = texts.where(texts.isin(common), "others")
    return [str(text) for text in texts.iloc[rows]]


def _write_apart(numbers: NDArray[np.floating]) -> list[str]:
    """Write different numbers with as few decimals as tell them apart."""
    for n_decimals in count():
        texts = [f"{number:.{n_decimals}f}" for number in numbers]
        if len(set(texts)) == len(texts):
            break
    return texts


def _outliers(cohort: Cohort) -> str:
    if len(cohort.names) < _FEWEST_TO_COMPARE:
        return f"<p>Too few rows to compare: {len(cohort.names)}.</p>"
    found = cohort_distances(cohort.embeddings)
    order = np.argsort(-found.score, kind="stable")[:_MOST_OUTLIERS]
    lines = [
        (
            cohort.names[row],
            f"{found.distance[row]:.2f}",
            f"{found.score[row]:+.1f}{' *' if found.is_outlier[row] else ''}",
        )
        for row in order
    ]
    return (
        score_table(("row", "distance", "robust score"), lines)
        + f"<p>{int(found.is_outlier.sum())} of {len(cohort.names)} rows lie far from "
        "the cohort (*: more than 3.5 robust standard deviations). Distance of each "
        "row's embedding to the others, by a shrunken covariance. Look at their images "
        "below: a failed alignment and an unusual person both lie far out.</p>"
    )


def _reliability_section(cohort: Cohort) -> list[str]:
    heading = "<h2>Reliability</h2>"
    site = None
    if cohort.site is not None and cohort.known[cohort.site].notna().all():
        site = cohort.texts(cohort.site)
    try:
        found = evaluate_reliability(cohort.embeddings, cohort.participants, site=site)
    except InputError as error:
        return [heading, f"<p>Not known: {escape(str(error))}</p>"]
    return [heading, _reliability_table(found)]


def _reliability_table(found: Reliability) -> str:
    known = found.feature_icc[np.isfinite(found.feature_icc)]
    lines = [("ICC(2,1) of a feature", "undefined", "")]
    if len(known):
        low, median, high = np.quantile(known, (0.25, 0.5, 0.75))
        lines = [
            ("ICC(2,1) of a feature, median", f"{median:.2f}", ""),
            ("its quartiles", f"{low:.2f} to {high:.2f}", ""),
        ]
    lines.append(
        (
            "scans whose nearest other scan is of the same person",
            f"{found.retrieval:.0%}",
            f"{found.retrieval_chance:.0%}",
        )
    )
    if found.site_decoding is not None and found.site_chance is not None:
        lines.append(
            (
                "site read from the features, balanced accuracy",
                str(found.site_decoding),
                f"{found.site_chance:.2f}",
            )
        )
    return (
        score_table(("", "value", "chance"), lines)
        + f"<p>{found.n_subjects} people with {found.n_scans} scans each.</p>"
    )


def _inputs(inputs: Inputs) -> str:
    parts = [notes(inputs.remarks)]
    if inputs.failures:
        lines = [f"{name}: {reason}" for name, reason in inputs.failures]
        items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
        parts.append(f"<p>Could not be shown:</p>\n<ul>{items}</ul>")
    if not inputs.previews or inputs.outline is None:
        return "\n".join([*parts, "<p>No image is shown.</p>"])
    ranked = rank_previews(inputs.previews)
    n_flagged = sum(flagged for _, flagged in ranked)
    figures = [preview_html(preview, flagged=flagged) for preview, flagged in ranked]
    parts += [
        "<p>What the encoder is given, the most suspect first. The template's brain "
        "(orange) and white matter (blue) lie where an aligned brain has them; a "
        "larger or smaller brain is no failure, a turned or shifted one is. The left "
        "of the brain is on the left. Similarity is the correlation with a model of a "
        "head, overlap that of the brain that was found with the template's. "
        f"Framed are those that stand out: {n_flagged} of {len(ranked)}.</p>",
        inputs.outline.symbol,
        f'<div class="brains">{"".join(figures[:_OPEN_PREVIEWS])}</div>',
    ]
    if len(figures) > _OPEN_PREVIEWS:
        parts.append(
            f"<details><summary>The other {len(figures) - _OPEN_PREVIEWS}</summary>"
            f'<div class="brains">{"".join(figures[_OPEN_PREVIEWS:])}</div></details>'
        )
    return "\n".join(parts)
