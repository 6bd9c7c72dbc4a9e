"""The result of a comparison of embeddings."""

__all__ = ["Comparison", "format_interval"]

from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd

from brainfeat.display.summarised import Summarised
from brainfeat.evaluation.scores import format_number


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Comparison(Summarised):
    """Result of `compare_embeddings`.

    Parameters
    ----------
    classes : tuple of str
        The classes; of two, the second is the positive one. Empty for numbers.
    metrics : tuple of str
        The scores: ``AUC`` and ``balanced accuracy``, or ``R2``, ``MAE`` and ``r``. The
        first one is shown in figures and learning curves.
    chance : dict
        The value of each score for a guess, where there is one.
    n_rows, n_subjects : int
        Size of the data that all embeddings are scored on.
    n_dropped : dict
        Rows of each embedding that are not scored, as another lacks them, or as they
        have no label or values that are not finite.
    scores : DataFrame
        ``embedding``, ``metric``, ``value``, and the ends ``low`` and ``high`` of its
        interval.
    differences : DataFrame
        ``first``, ``second``, ``metric``, ``difference`` (first minus second), ``low``,
        ``high``, ``p`` and ``p_holm``, for each pair of embeddings.
    learning_curve : DataFrame
        ``embedding``, ``n_subjects`` that were labelled, ``value`` of the first metric
        in all others, and its ``standard_error`` over draws.
    site : DataFrame
        ``embedding``, ``balanced_accuracy`` of reading the site, ``standard_error`` and
        ``chance``; empty without sites.
    repeats : DataFrame
        ``embedding``, ``n_subjects`` with repeat scans, ``retrieval`` and its
        ``chance``, ``icc`` (median over features); empty without repeats.
    confidence : float
        Of the intervals.
    findings : tuple of str
        Problems of the data, each also issued as a warning.
    """

    classes: tuple[str, ...]
    metrics: tuple[str, ...]
    chance: dict[str, float]
    n_rows: int
    n_subjects: int
    n_dropped: dict[str, int]
    scores: pd.DataFrame
    differences: pd.DataFrame
    learning_curve: pd.DataFrame
    site: pd.DataFrame
    repeats: pd.DataFrame
    confidence: float
    findings: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The embeddings, in the order in which they were given."""
        return list(self.n_dropped)

    @property
    def label(self) -> str:
        """What is read from the embeddings, in words."""
        if len(self.classes) == 2:
            return f"{self.classes[1]} against {self.classes[0]}"
        return ", ".join(self.classes) or "a number"

    def select(self, table: pd.DataFrame, **values: str) -> pd.DataFrame:
        """Return the lines of one of the tables with these values."""
        for column, value in values.items():
            table = table[table[column] == value]
        return table

    def summary(self) -> str:
        """Summarise the results as lines of text for a terminal."""
        level = f"{self.confidence:.0%}"
        lines = [
            f"{self.label}: {self.n_rows} rows of {self.n_subjects} subjects, "
            f"{level} intervals over subjects"
        ]
        lines += _align([["", *self.metrics], *map(self._score_line, self.names)])
        pairs = self.select(self.differences, metric=self.metrics[0])
        if len(pairs):
            lines.append(
                f"differences in {self.metrics[0]}, p adjusted for {len(pairs)}"
            )
            lines += _align([_difference_line(row) for row in pairs.to_dict("records")])
        lines += [f"note: {finding}" for finding in self.findings]
        return "\n".join(lines)

    def _summary_html(self) -> str:
        # Tables as such: the text has them in columns.
        tables = [self.scores, self.differences]
        shown = [table.round(3).to_html(index=False) for table in tables if len(table)]
        return "\n".join(
            [*shown, *(f"<p>{escape(note)}</p>" for note in self.findings)]
        )

    def _score_line(self, name: str) -> list[str]:
        rows = self.select(self.scores, embedding=name).to_dict("records")
        return [name, *map(format_interval, rows)]


def format_interval(row: dict[Any, Any], column: str = "value") -> str:
    """Format a value with its interval.

    >>> format_interval({"value": 0.8, "low": 0.7, "high": 0.88})
    '0.80 [0.70, 0.88]'
    """
    low, high = format_number(row["low"]), format_number(row["high"])
    return f"{format_number(row[column])} [{low}, {high}]"


def _difference_line(row: dict[Any, Any]) -> list[str]:
    p_value = f"p = {format_number(row['p_holm'], 3)}"
    pair = f"{row['first']} - {row['second']}"
    return [pair, format_interval(row, "difference"), p_value]


def _align(lines: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
