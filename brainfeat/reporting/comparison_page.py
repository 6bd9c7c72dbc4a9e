"""The sections of a page about a comparison of embeddings."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from brainfeat.evaluation import Comparison
from brainfeat.evaluation.comparison import format_interval
from brainfeat.evaluation.scores import Score, format_number
from brainfeat.reporting.figures import legend_html
from brainfeat.reporting.forest import ForestLine, curves_svg, forest_svg
from brainfeat.reporting.page import fact_table, frame, notes, score_table

__all__ = ["comparison_page"]

_MOST_PAIRS = 15  # in the figure of differences

Origins = Mapping[str, Mapping[str, str]]


def comparison_page(
    title: str,
    facts: Mapping[str, str],
    result: Comparison,
    origins: Origins,
    remarks: Sequence[str] = (),
) -> str:
    """Return the body of the page; ``origins`` says what each embedding is."""
    findings = [text[:1].upper() + text[1:] for text in result.findings]
    sections = [
        f"<h1>{escape(title)}</h1>",
        fact_table(facts),
        notes([*remarks, *findings]),
        f"<h2>Scores: {escape(result.label)}</h2>",
        _scores(result),
        "<h2>Differences</h2>",
        _differences(result),
        _learning_curves(result),
        "<h2>What else an embedding tells</h2>",
        _others(result),
        "<h2>Embeddings</h2>",
        _origins(result, origins),
    ]
    return frame(sections)


def _scores(result: Comparison) -> str:
    metric, level = result.metrics[0], f"{result.confidence:.0%}"
    rows = result.select(result.scores, metric=metric).to_dict("records")
    lines = [
        _line(str(row["embedding"]), row, "value", format_interval(row)) for row in rows
    ]
    chance = result.chance.get(metric)
    figure = forest_svg(lines, metric, chance)
    table = score_table(
        ("embedding", *result.metrics),
        [(name, *_row_of(result, name)) for name in result.names],
    )
    return (
        f'<div class="figures"><figure>{figure}<figcaption>{escape(metric)} of '
        f"held-out rows with {level} intervals{_describe_chance(chance)}.</figcaption>"
        f"</figure></div>{table}{_explain(result)}"
    )


def _row_of(result: Comparison, name: str) -> list[str]:
    rows = result.select(result.scores, embedding=name).to_dict("records")
    return [format_interval(row) for row in rows]


def _describe_chance(chance: float | None) -> str:
    return "" if chance is None else f"; the broken line, {chance:.2g}, is chance"


def _explain(result: Comparison) -> str:
    chance = ", ".join(f"{name} {value:.2f}" for name, value in result.chance.items())
    return (
        "<p>All embeddings are scored on the same rows, with the same folds by "
        "subject: ridge regression on standardised features, whose penalty is "
        "selected within each training fold. Intervals are of a bootstrap over "
        "subjects, each drawn with all of its rows, and widened for the training "
        "subjects that folds share [Nadeau and Bengio, 2003]. A guess "
        f"scores: {escape(chance)}.</p>"
    )


def _differences(result: Comparison) -> str:
    metric = result.metrics[0]
    rows = result.select(result.differences, metric=metric).to_dict("records")
    if not rows:
        return "<p>One embedding only: there is nothing to compare it with.</p>"
    lines = [
        _line(_pair(row), row, "difference", _with_p(row)) for row in rows[:_MOST_PAIRS]
    ]
    left_out = len(rows) - len(lines)
    more = f" Not drawn: {left_out} more pairs." if left_out else ""
    figure = forest_svg(lines, f"difference in {metric}", 0.0)
    everything = result.differences.to_dict("records")
    table = score_table(
        ("first - second", "metric", "difference", "p", "p, Holm"),
        [
            (
                _pair(row),
                str(row["metric"]),
                format_interval(row, "difference"),
                format_number(row["p"], 3),
                format_number(row["p_holm"], 3),
            )
            for row in everything
        ],
    )
    return (
        f'<div class="figures"><figure>{figure}<figcaption>Paired differences in '
        f"{escape(metric)}, first minus second, with {result.confidence:.0%} intervals."
        f"{more}</figcaption></figure></div>"
        f"<p>{_explain_p(len(rows))} Intervals are of one pair alone. The embedding "
        "that scores best among many also had luck: its score on new subjects is "
        "likely lower.</p><details><summary>All pairs and metrics</summary>"
        f"{table}</details>"
    )


def _explain_p(n_pairs: int) -> str:
    if n_pairs == 1:
        return "p is that of no difference."
    return (
        f"Of {n_pairs} pairs without any difference, about {0.05 * n_pairs:.2g} would "
        "have p below 0.05 by chance: p is adjusted for the number of pairs [Holm, "
        "1979], each metric for itself."
    )


def _line(name: str, row: Mapping[Any, Any], column: str, text: str) -> ForestLine:
    return ForestLine(name, row[column], row["low"], row["high"], text)


def _pair(row: Mapping[Any, Any]) -> str:
    return f"{row['first']} - {row['second']}"


def _with_p(row: Mapping[Any, Any]) -> str:
    p_value = row["p_holm"]
    shown = "p < 0.001" if p_value < 0.001 else f"p = {format_number(p_value, 3)}"
    return f"{format_interval(dict(row), 'difference')}, {shown}"


def _learning_curves(result: Comparison) -> str:
    curves = {}
    for name in result.names:
        rows = result.select(result.learning_curve, embedding=name)
        columns = (rows["n_subjects"], rows["value"], rows["standard_error"])
        curves[name] = [
            (int(n), float(value), float(error))
            for n, value, error in zip(*columns, strict=True)
        ]
    if not all(curves.values()):
        return ""
    metric = result.metrics[0]
    figure = curves_svg(curves, metric, result.chance.get(metric))
    return (
        '<h2>Learning curves</h2><div class="figures"><figure>'
        f"{figure}<figcaption>{escape(metric)} in all other subjects, mean over 20 "
        f"draws of the labelled ones, the same for all.<br>{legend_html([*curves])}"
        "</figcaption></figure></div>"
    )


def _others(result: Comparison) -> str:
    """Format what embeddings tell of the site and of who a subject is."""
    columns: dict[str, dict[str, str]] = {}
    for row in result.site.to_dict("records"):
        score = Score(row["balanced_accuracy"], row["standard_error"])
        name = f"site read (chance {row['chance']:.2f})"
        columns.setdefault(name, {})[row["embedding"]] = str(score)
    for row in result.repeats.to_dict("records"):
        name = f"repeat found (chance {row['chance']:.2f})"
        columns.setdefault(name, {})[row["embedding"]] = f"{row['retrieval']:.2f}"
        icc = format_number(row["icc"])
        columns.setdefault("median ICC", {})[row["embedding"]] = icc
    if not columns:
        return (
            "<p>Not measured: no column of sites with several values, and no repeat "
            "scans of two subjects.</p>"
        )
    lines = [
        (name, *(column.get(name, "") for column in columns.values()))
        for name in result.names
    ]
    return score_table(("embedding", *columns), lines) + (
        "<p>Site read: balanced accuracy of a probe of the site or scanner, lower is "
        "better if sites have alike subjects. Repeat found: fraction of scans whose "
        "nearest other scan is of the same subject. ICC(2,1): agreement of features "
        "over the repeat scans of a subject, median over features.</p>"
    )


def _origins(result: Comparison, origins: Origins) -> str:
    keys = list(dict.fromkeys(key for facts in origins.values() for key in facts))
    parts = []
    for name in result.names:
        facts = origins.get(name, {})
        parts.append(
            f"<h3>{escape(name)}</h3>{fact_table({k: facts.get(k, '') for k in keys})}"
        )
    return (
        f'<div class="figures">{"".join(f"<div>{part}</div>" for part in parts)}</div>'
    )
