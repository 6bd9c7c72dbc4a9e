"""The map of a cohort's embeddings: two components, coloured by label, site and age."""

import warnings
from html import escape
from importlib import import_module
from importlib.util import find_spec
from itertools import count

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from brainfeat.reporting.cohort import Cohort
from brainfeat.reporting.figures import legend_html, scatter_svg

__all__ = ["map_section"]

Floats = NDArray[np.floating]

_MOST_CLASSES = 16  # that marks can distinguish
_MOST_MARKS = 5000  # in a map that a browser draws quickly


def map_section(cohort: Cohort) -> str:
    """Draw the principal components of the embeddings, and UMAP if it is installed."""
    if min(cohort.embeddings.shape) < 2 or len(cohort.names) < 3:
        return "<p>Too few rows or features for a map.</p>"
    if not np.ptp(cohort.embeddings, axis=0).any():
        return "<p>No map: all rows are equal.</p>"
    rows = _sample_rows(len(cohort.names))
    columns = (cohort.label, cohort.site, cohort.age)
    colored_by: list[str | None] = [name for name in columns if name] or [None]
    points, axes = _project(cohort.embeddings)
    figures = [_scatter(cohort, rows, points[rows], axes, name) for name in colored_by]
    if find_spec("umap") is not None and len(rows) > 15:
        points, axes = _umap(cohort.embeddings[rows]), ("UMAP 1", "UMAP 2")
        figures.append(_scatter(cohort, rows, points, axes, colored_by[0]))
    text = "Each mark is one row; the first two principal components of the features."
    if len(rows) < len(cohort.names):
        text += f" A random sample of {len(rows)} of {len(cohort.names)} rows."
    return f'<p>{text}</p><div class="figures">' + "\n".join(figures) + "</div>"


def _sample_rows(n_rows: int) -> NDArray[np.intp]:
    generator = np.random.default_rng(0)
    return np.sort(generator.permutation(n_rows)[:_MOST_MARKS])


def _project(embeddings: Floats) -> tuple[Floats, tuple[str, str]]:
    pca = PCA(2, random_state=0)
    points = pca.fit_transform(StandardScaler().fit_transform(embeddings))
    first, second = (f"{100 * ratio:.0f} %" for ratio in pca.explained_variance_ratio_)
    return points, (f"component 1 ({first})", f"component 2 ({second})")


def _umap(embeddings: Floats) -> Floats:
    scaled = StandardScaler().fit_transform(embeddings)
    with warnings.catch_warnings():
        # UMAP warns that a seed makes it run on one thread.
        warnings.simplefilter("ignore", UserWarning)
        model = import_module("umap").UMAP(random_state=0)
        return np.asarray(model.fit_transform(scaled), dtype=np.float64)


def _scatter(
    cohort: Cohort,
    rows: NDArray[np.intp],
    points: Floats,
    axes: tuple[str, str],
    column: str | None,
) -> str:
    names = [cohort.names[row] for row in rows]
    labels, caption = ["subject"] * len(rows), "All rows"
    if column is not None:
        labels = _classes(cohort, column, rows)
        caption = f"{escape(column)}: {legend_html(labels)}"
    return (
        f"<figure>{scatter_svg(points, labels, names, axes)}"
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _classes(cohort: Cohort, column: str, rows: NDArray[np.intp]) -> list[str]:
    """Return a class for each row: its value, or the quartile of a number."""
    values = cohort.known[column]
    n_values = values.nunique()
    numbers = pd.to_numeric(values, errors="coerce")
    if n_values > 4 and numbers[values.notna()].notna().all():
        quartiles, edges = pd.qcut(
            numbers, 4, labels=False, retbins=True, duplicates="drop"
        )
        ends = _format_distinct(edges)
        return [
            "unknown" if pd.isna(q) else f"{ends[int(q)]} to {ends[int(q) + 1]}"
            for q in quartiles.iloc[rows]
        ]
    texts = cohort.texts(column)
    if n_values > _MOST_CLASSES:
        common = set(texts.value_counts().index[: _MOST_CLASSES - 1])
        texts = texts.where(texts.isin(common), "others")
    return [str(text) for text in texts.iloc[rows]]


def _format_distinct(numbers: Floats) -> list[str]:
    """Format different numbers with the fewest decimals that keep them distinct."""
    for n_decimals in count():
        texts = [f"{number:.{n_decimals}f}" for number in numbers]
        if len(set(texts)) == len(texts):
            break
    return texts
