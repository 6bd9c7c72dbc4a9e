"""Forest plots, and the learning curves of several embeddings."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from brainfeat.reporting.figures import draw_mark, mark_color, order_labels
from brainfeat.reporting.plots import PlotFrame, polyline

__all__ = ["ForestLine", "curves_svg", "forest_svg"]

_WIDTH, _EDGE, _TOP, _LINE, _BOTTOM = 480, 14, 8, 44, 40
_MOST_TICKS = 6
_LONGEST_NAME = 34  # characters; a pointer shows the whole
_BLUE = "#0072b2"


class ForestLine(NamedTuple):
    """An estimate with its interval; NaN is not drawn."""

    name: str
    value: float
    low: float
    high: float
    text: str  # the numbers in words, at the right


def forest_svg(
    lines: Sequence[ForestLine], axis: str, reference: float | None = None
) -> str:
    """Draw estimates below each other, with a broken line at a reference."""
    ends = [end for line in lines for end in line[1:4] if np.isfinite(end)]
    ends += [] if reference is None else [reference]
    ticks = _ticks(min(ends, default=0.0), max(ends, default=1.0))
    low, high = ticks[0], ticks[-1]

    def x(value: float) -> float:
        return _EDGE + (_WIDTH - 2 * _EDGE) * (value - low) / (high - low)

    bottom = _TOP + _LINE * len(lines)
    parts = [
        f'<path d="M{_EDGE} {bottom}H{_WIDTH - _EDGE}" stroke="currentColor" '
        'opacity="0.5"/>',
        *(
            f'<text x="{x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">'
            f"{_format(tick)}</text>"
            for tick in ticks
        ),
        f'<text x="{_WIDTH / 2}" y="{bottom + 34}" text-anchor="middle">'
        f"{escape(axis)}</text>",
    ]
    if reference is not None:
        parts.append(
            f'<path d="M{x(reference):.1f} {_TOP}V{bottom}" stroke="currentColor" '
            'opacity="0.5" stroke-dasharray="4 4"/>'
        )
    for number, line in enumerate(lines):
        parts.append(_draw_line(line, _TOP + _LINE * number, x))
    return (
        f'<svg viewBox="0 0 {_WIDTH} {bottom + _BOTTOM}" role="img" '
        f'aria-label="{escape(axis)} of {len(lines)}">\n'
        + "\n".join(parts)
        + "\n</svg>"
    )


def curves_svg(
    curves: Mapping[str, Sequence[tuple[int, float, float]]],
    metric: str,
    chance: float | None,
) -> str:
    """Draw learning curves: sizes, values and standard errors by name."""
    sizes = sorted({size for curve in curves.values() for size, *_ in curve})
    values = [value for curve in curves.values() for _, value, _ in curve]
    known = [value for value in values if np.isfinite(value)]
    ticks = _ticks(min([*known, chance or 0.0]), max([*known, chance or 0.0]))
    frame = PlotFrame((0.0, max(len(sizes) - 1.0, 1.0)), (ticks[0], ticks[-1]))
    parts = [frame.axes("labelled subjects", metric), frame.y_ticks(ticks)]
    parts += [frame.x_tick(float(i), str(size)) for i, size in enumerate(sizes)]
    if chance is not None:
        parts.append(frame.rule(chance))
    for name, curve in curves.items():
        number = order_labels([*curves]).index(name)
        points = [
            (frame.x(float(sizes.index(size))), frame.y(value), f"{value:.3f}")
            for size, value, _ in curve
            if np.isfinite(value)
        ]
        parts.append(polyline([(a, b) for a, b, _ in points], mark_color(number)))
        parts += [draw_mark(a, b, number, f"{name}: {text}") for a, b, text in points]
    return frame.svg(f"{metric} over the number of labelled subjects", parts)


def _draw_line(line: ForestLine, top: float, x: Callable[[float], float]) -> str:
    short = line.name
    if len(short) > _LONGEST_NAME:
        short = f"{short[: _LONGEST_NAME - 1]}\u2026"
    parts = [
        f"<g><title>{escape(f'{line.name}: {line.text}')}</title>",
        f'<text x="{_EDGE}" y="{top + 15}">{escape(short)}</text>',
        f'<text x="{_WIDTH - _EDGE}" y="{top + 15}" text-anchor="end">'
        f"{escape(line.text)}</text>",
    ]
    middle = top + 29
    if np.isfinite([line.low, line.high]).all():
        parts.append(
            f'<path d="M{x(line.low):.1f} {middle}H{x(line.high):.1f}" '
            f'stroke="{_BLUE}" stroke-width="2.5"/>'
        )
    if np.isfinite(line.value):
        a = x(line.value)
        parts.append(f'<path d="M{a - 5:.1f} {middle - 5}h10v10h-10z" fill="{_BLUE}"/>')
    return "".join([*parts, "</g>"])


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most the lowest to at least the highest value."""
    if high - low < 1e-9:
        low, high = low - 0.1, high + 0.1
    room = high - low
    exponent = np.floor(np.log10(room))
    steps = [m * 10.0**e for e in (exponent - 1, exponent) for m in (1.0, 2.0, 5.0)]
    for step in [*steps, 10.0 ** (exponent + 1)]:
        first, last = np.floor(low / step + 1e-9), np.ceil(high / step - 1e-9)
        if last - first < _MOST_TICKS:
            return [float(i * step) for i in range(int(first), int(last) + 1)]
    return [low, high]


def _format(value: float) -> str:
    return f"{round(value, 10):g}".replace("-", "\u2212")
