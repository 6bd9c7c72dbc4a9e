"""Scatter plots as SVG, and their marks."""

import re
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "draw_mark",
    "legend_html",
    "mark_color",
    "order_labels",
    "scatter_svg",
]

# Colours of Okabe and Ito, which colour-blind readers can distinguish.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _EDGE = 448, 336, 36, 36, 12
# The dash in sub-2 is no minus sign.
_NUMBER = re.compile(r"((?:(?<!\S)-)?\d+(?:\.\d+)?)")


def scatter_svg(
    points: NDArray[np.floating],  # n_points 2
    labels: Sequence[str],
    names: Sequence[str],
    axes: tuple[str, str],  # names of x and y
) -> str:
    """Draw points, with a colour and shape for each label; a pointer shows names."""
    low, high = points.min(axis=0), points.max(axis=0)
    room = np.array([_WIDTH - _LEFT - 2 * _EDGE, _HEIGHT - _BOTTOM - 2 * _EDGE])
    unit = (points - low) / np.where(high > low, high - low, 1.0)
    x = _LEFT + _EDGE + unit[:, 0] * room[0]
    y = _EDGE + (1.0 - unit[:, 1]) * room[1]  # down is positive in SVG
    classes = order_labels(labels)
    marks = [
        draw_mark(float(x[i]), float(y[i]), classes.index(labels[i]), names[i])
        for i in range(len(points))
    ]
    summary = f"{len(points)} points, {axes[1]} over {axes[0]}"
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(summary)}">',
        f'<path d="M{_LEFT} {_EDGE / 2}V{_HEIGHT - _BOTTOM}H{_WIDTH - _EDGE / 2}" '
        'fill="none" stroke="currentColor" opacity="0.5"/>',
        f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 10}" '
        f'text-anchor="middle">{escape(axes[0])}</text>',
        f'<text transform="translate(20 {(_HEIGHT - _BOTTOM) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(axes[1])}</text>',
    ]
    return "\n".join([*parts, *marks, "</svg>"])


def mark_color(number: int) -> str:
    """Return the colour of the label of a number."""
    return _COLORS[number % len(_COLORS)]


def legend_html(labels: Sequence[str]) -> str:
    """Show the mark of each label in `scatter_svg`."""
    return " ".join(
        '<span class="key"><svg viewBox="0 0 16 16" aria-hidden="true">'
        f"{draw_mark(8, 8, number, label)}</svg>{escape(label)}</span>"
        for number, label in enumerate(order_labels(labels))
    )


def order_labels(labels: Sequence[str]) -> list[str]:
    """Sort labels by the numbers in them: 50 before 100, and -2 before -1."""

    def key(label: str) -> list[str | float]:
        parts = _NUMBER.split(label)  # text, number, text and so on
        return [float(part) if i % 2 else part for i, part in enumerate(parts)]

    # Sorted as text first: 07 and 7 are the same number.
    return sorted(sorted(set(labels)), key=key)


def draw_mark(x: float, y: float, number: int, name: str) -> str:
    """Draw the mark of the label of a number, with its name for a pointer."""
    color = _COLORS[number % len(_COLORS)]
    shapes = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5"',
        f'<path d="M{x:.1f} {y - 7:.1f}l6.5 12h-13z"',
        f'<path d="M{x - 5:.1f} {y - 5:.1f}h10v10h-10z"',
        f'<path d="M{x:.1f} {y - 7:.1f}l7 7l-7 7l-7 -7z"',
    )
    # Colour and shape repeat after sixteen classes.
    shape = shapes[(number + number // len(_COLORS)) % len(shapes)]
    return (
        f'{shape} fill="{color}" fill-opacity="0.75"><title>{escape(name)}</title>'
        f"</{shape[1:].split()[0]}>"
    )
