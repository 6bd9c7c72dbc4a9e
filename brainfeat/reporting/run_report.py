"""A page with the curves of a pretraining run, from its log."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from brainfeat.exceptions import ConfigError, InputError
from brainfeat.io.atomic import atomic_write
from brainfeat.io.json_files import read_json
from brainfeat.pretraining.run_state import CONFIG_NAME, LOG_NAME
from brainfeat.reporting.page import fact_table, frame, is_own_page, render_page
from brainfeat.reporting.plots import PlotFrame, polyline

__all__ = ["is_run", "report_on_run"]

_PAGE_NAME = "curves.html"
_LOSSES = ("dino", "ibot", "koleo", "infonce", "anatomy", "agreement", "consistency")
_MAX_POINTS = 600  # of a curve
_ORANGE = "#d55e00"


class _Curve(NamedTuple):
    """A measure of the log, and what a reader makes of it."""

    name: str
    title: str
    note: str
    limit: float | None = None  # a broken line


_CURVES = (
    _Curve("total", "Loss", "The weighted sum of the objectives."),
    *(_Curve(name, f"Objective {name}", "Before its weight.") for name in _LOSSES),
    _Curve(
        "teacher_entropy",
        "Entropy of the teacher",
        "Of its assignments, over the largest: 0.7 to 1 is healthy, less than 0.1 is "
        "the beginning of a collapse.",
        0.1,
    ),
    _Curve(
        "effective_rank",
        "Effective rank",
        "Of the last 256 class tokens: less than 10 is low, less than 2 a collapse.",
        10.0,
    ),
    _Curve("probe", "Probe", "Area under the ROC curve of held-out subjects.", 0.5),
    _Curve("within_between", "Within over between", "Of acquisitions and subjects."),
    _Curve("gradient_norm", "Norm of the gradient", "Before clipping."),
    _Curve("learning_rate", "Learning rate", "Of a layer with factor 1."),
    _Curve("subjects_per_second", "Speed", "Subjects a second."),
)


def is_run(folder: Path) -> bool:
    """Whether a folder holds the log of a run."""
    return (folder / LOG_NAME).is_file()


def report_on_run(folder: Path, output: Path | None = None) -> Path:
    """Write a page about a run, by default into its folder; return its path."""
    path = output or folder / _PAGE_NAME
    if path.suffix.lower() not in {".html", ".htm"}:
        raise InputError(f"{path}: expected a name that ends in .html.")
    if output is None and path.exists() and not is_own_page(path):
        raise InputError(f"{path}: exists and is not ours; choose another by --output.")
    points = _read_log(folder / LOG_NAME)
    figures = [
        _figure(curve, points[curve.name]) for curve in _CURVES if _shows(curve, points)
    ]
    title = f"brainfeat report: {folder.name}"
    sections = [f"<h1>{escape(title)}</h1>", fact_table(_facts(folder, points))]
    sections.append(f'<div class="figures">{"".join(figures)}</div>')
    with atomic_write(path) as partial:
        partial.write_text(render_page(title, frame(sections)), encoding="utf-8")
    return path


def _read_log(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Return the points (steps done, value) of each measure."""
    points: dict[str, list[tuple[float, float]]] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            values = json.loads(line)
            n_done = float(values.pop("step")) + 1
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}: expected the log of a run, got another line {number}."
            ) from error
        for name, value in values.items():
            points.setdefault(name, []).append((n_done, float(value)))
    if not points:
        raise InputError(f"{path}: expected the log of a run, got an empty file.")
    return points


def _shows(curve: _Curve, points: Mapping[str, Sequence[tuple[float, float]]]) -> bool:
    """Whether a measure is in the log, and not 0 for an objective without weight."""
    values = points.get(curve.name, ())
    return any(value != 0 for _, value in values)


def _figure(curve: _Curve, points: Sequence[tuple[float, float]]) -> str:
    (start, first), (end, last) = points[0], points[-1]
    shown = points[:: -(-len(points) // _MAX_POINTS)]
    heights = [value for _, value in shown]
    if curve.limit is not None:
        heights.append(curve.limit)
    low, high = min(heights), max(heights)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    plot = PlotFrame((start, max(end, start + 1)), (low - room, high + room))
    marks = [(plot.x(n_done), plot.y(value)) for n_done, value in shown]
    parts = [
        plot.axes("steps", curve.title),
        plot.y_ticks([float(f"{low:.3g}"), float(f"{high:.3g}")]),
        *(plot.x_tick(n_done, f"{n_done:g}") for n_done in (start, end)),
        *([] if curve.limit is None else [plot.rule(curve.limit)]),
        polyline(marks),
    ]
    parts += [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{_ORANGE}"/>'
        for x, y in marks
        if len(marks) <= 40
    ]
    text = f"{curve.title}: {first:.4g} at first, {last:.4g} in the end. {curve.note}"
    return (
        f"<figure>{plot.svg(curve.title, parts)}"
        f"<figcaption>{escape(text)}</figcaption></figure>"
    )


def _facts(
    folder: Path, points: Mapping[str, Sequence[tuple[float, float]]]
) -> dict[str, str]:
    n_done = max(last for values in points.values() for last, _ in values[-1:])
    facts = {"run": str(folder), "steps in the log": f"{n_done:g}"}
    if not (folder / CONFIG_NAME).is_file():
        return facts
    values = read_json(
        folder / CONFIG_NAME, "the configuration of a run", error=ConfigError
    )
    for name in ("n_steps", "batch_size", "precision", "centring", "optimizer"):
        if name in values:
            facts[name] = str(values[name])
    return facts
