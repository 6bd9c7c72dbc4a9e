"""Plots of the held-out predictions of a probe."""

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from brainfeat.evaluation import RocCurve
from brainfeat.evaluation.scores import Calibration
from brainfeat.reporting.figures import draw_mark, mark_color, order_labels
from brainfeat.reporting.page import scroll_box
from brainfeat.reporting.plots import PlotFrame, polyline

__all__ = ["calibrations_svg", "confusion_html", "identity_svg", "roc_svg"]

Floats = NDArray[np.float64]

_MOST_POINTS = 5000  # that a browser draws quickly
_MOST_STEPS = 400  # of a curve
_UNIT_TICKS = (0.0, 0.5, 1.0)


def roc_svg(curves: Sequence[RocCurve], point: tuple[float, float] | None) -> str:
    """Draw curves in the colours of their classes, and an operating point."""
    frame = PlotFrame((0.0, 1.0), (0.0, 1.0))
    parts = [
        frame.axes("1 - specificity", "sensitivity"),
        frame.y_ticks(_UNIT_TICKS),
        *(frame.x_tick(tick, f"{tick:g}") for tick in _UNIT_TICKS),
        _diagonal(frame, (0.0, 1.0)),
    ]
    order = order_labels([curve.label for curve in curves])
    for curve in curves:
        rates = zip(
            _thin(curve.false_positive_rate),
            _thin(curve.true_positive_rate),
            strict=True,
        )
        line = [(frame.x(float(a)), frame.y(float(b))) for a, b in rates]
        parts.append(polyline(line, mark_color(order.index(curve.label))))
    if point is not None:
        x, y = frame.x(point[0]), frame.y(point[1])
        parts.append(draw_mark(x, y, 1, "operating point"))
    names = ", ".join(curve.label for curve in curves)
    return frame.svg(f"ROC of {names}", parts)


def calibrations_svg(calibrations: Sequence[Calibration], labels: Sequence[str]) -> str:
    """Draw observed frequencies over predicted probabilities, a colour a class."""
    frame = PlotFrame((0.0, 1.0), (0.0, 1.0))
    parts = [
        frame.axes("predicted probability", "observed frequency"),
        frame.y_ticks(_UNIT_TICKS),
        *(frame.x_tick(tick, f"{tick:g}") for tick in _UNIT_TICKS),
        _diagonal(frame, (0.0, 1.0)),
    ]
    order = order_labels(labels)
    for calibration, label in zip(calibrations, labels, strict=True):
        values = zip(calibration.predicted, calibration.observed, strict=True)
        points = [(frame.x(float(a)), frame.y(float(b))) for a, b in values]
        color = mark_color(order.index(label))
        parts.append(polyline(points, color))
        circle = '<circle cx="{:.1f}" cy="{:.1f}" r="4.5" fill="{}"/>'
        parts += [circle.format(*at, color) for at in points]
    return frame.svg("observed frequency over predicted probability", parts)


def identity_svg(values: Floats, predicted: Floats, names: Sequence[str]) -> str:
    """Draw predicted over true numbers, with the line on which both are equal."""
    chosen = np.random.default_rng(0).permutation(len(values))[:_MOST_POINTS]
    low = float(min(values.min(), predicted.min()))
    high = float(max(values.max(), predicted.max()))
    high = high if high > low else low + 1.0
    frame = PlotFrame((low, high), (low, high))
    ticks = _round_ticks(low, high)
    parts = [
        frame.axes("true", "predicted"),
        frame.y_ticks(ticks),
        *(frame.x_tick(tick, f"{tick:g}") for tick in ticks),
        _diagonal(frame, (low, high)),
    ]
    parts += [
        draw_mark(
            frame.x(float(values[i])),
            frame.y(float(predicted[i])),
            0,
            f"{names[i]}: {values[i]:.4g}, predicted {predicted[i]:.4g}",
        )
        for i in sorted(chosen)
    ]
    return frame.svg("predicted over true numbers", parts)


def confusion_html(confusion: Floats, classes: Sequence[str]) -> str:
    """Format rows of each class by the class that was predicted, shaded by recall."""
    head = "".join(f'<th class="number">{escape(name)}</th>' for name in classes)
    lines = []
    for name, counts in zip(classes, confusion, strict=True):
        total = max(float(counts.sum()), 1e-12)
        cells = "".join(
            f'<td class="number" style="background:rgba(0,114,178,'
            f'{0.55 * count / total:.2f})">{count:.1f} '
            f"({100 * count / total:.0f} %)</td>"
            for count in counts
        )
        lines.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    return scroll_box(
        f"<table><thead><tr><th>true class</th>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def _diagonal(frame: PlotFrame, ends: tuple[float, float]) -> str:
    low, high = ends
    return (
        f'<path d="M{frame.x(low):.1f} {frame.y(low):.1f}L{frame.x(high):.1f} '
        f'{frame.y(high):.1f}" stroke="currentColor" fill="none" opacity="0.5" '
        'stroke-dasharray="4 4"/>'
    )


def _thin(values: Floats) -> Floats:
    """Return at most so many values as a curve needs, with both ends."""
    if len(values) <= _MOST_STEPS:
        return values
    return values[np.linspace(0, len(values) - 1, _MOST_STEPS).astype(np.intp)]


def _round_ticks(low: float, high: float) -> list[float]:
    """Return three to seven round numbers within a range."""
    rough = (high - low) / 4.0
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(s * power for s in (1.0, 2.0, 5.0, 10.0) if s * power >= rough)
    first = np.ceil(low / step)
    return [float(step * n) for n in np.arange(first, np.floor(high / step) + 1)]
