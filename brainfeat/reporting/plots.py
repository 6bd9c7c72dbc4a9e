"""Plots of scores as SVG."""

from collections.abc import Sequence
from html import escape

from brainfeat.evaluation.scores import LearningPoint

__all__ = ["PlotFrame", "learning_curve_svg", "polyline"]

_WIDTH, _HEIGHT = 448, 318
_LEFT, _BOTTOM, _TOP, _RIGHT = 62, 52, 14, 14
_BLUE = "#0072b2"


def learning_curve_svg(points: Sequence[LearningPoint], metric: str = "AUC") -> str:
    """Draw the score over the number of labelled subjects, with standard errors."""
    values = [point.auc.value for point in points]
    chance = 0.5 if metric == "AUC" else 0.0
    low = min(chance - 0.05, *(p.auc.value - p.auc.standard_error for p in points))
    frame = PlotFrame((0.0, max(len(points) - 1.0, 1.0)), (low, 1.0))
    marks = [(frame.x(float(i)), frame.y(value)) for i, value in enumerate(values)]
    parts = [frame.axes("labelled subjects", metric)]
    parts.append(frame.y_ticks((chance, (1.0 + chance) / 2.0, 1.0)))
    parts += [frame.rule(chance), polyline(marks)]
    for point, (a, b) in zip(points, marks, strict=True):
        half = point.auc.standard_error
        top, bottom = frame.y(point.auc.value + half), frame.y(point.auc.value - half)
        parts.append(
            f'<path d="M{a:.1f} {top:.1f}V{bottom:.1f}" stroke="{_BLUE}"/>'
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4.5" fill="{_BLUE}">'
            f"<title>{point.n_labels} labels: {metric} {escape(str(point.auc))}</title>"
            "</circle>"
            f'<text x="{a:.1f}" y="{_HEIGHT - _BOTTOM + 19}" text-anchor="middle">'
            f"{point.n_labels}</text>"
        )
    return frame.svg(f"{metric} over the number of labelled subjects", parts)


class PlotFrame:
    """Maps values to coordinates of the SVG picture."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self._x_range, self._y_range = x, y

    def x(self, value: float) -> float:
        """Horizontal coordinate of a value."""
        low, high = self._x_range
        room = _WIDTH - _LEFT - _RIGHT - 24
        return _LEFT + 12 + room * (value - low) / (high - low)

    def y(self, value: float) -> float:
        """Vertical coordinate of a value."""
        low, high = self._y_range
        room = _HEIGHT - _TOP - _BOTTOM - 12
        return _TOP + 6 + room * (high - value) / (high - low)

    def axes(self, x_name: str, y_name: str) -> str:
        """Draw both axes with their names."""
        middle = (_HEIGHT - _BOTTOM) / 2
        return (
            f'<path d="M{_LEFT} {_TOP}V{_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}" '
            'fill="none" stroke="currentColor" opacity="0.5"/>'
            f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 9}" text-anchor="middle">'
            f"{escape(x_name)}</text>"
            f'<text transform="translate(16 {middle}) rotate(-90)" '
            f'text-anchor="middle">{escape(y_name)}</text>'
        )

    def x_tick(self, value: float, text: str) -> str:
        """Write a number below the horizontal axis."""
        return (
            f'<text x="{self.x(value):.1f}" y="{_HEIGHT - _BOTTOM + 19}" '
            f'text-anchor="middle">{escape(text)}</text>'
        )

    def y_ticks(self, values: Sequence[float]) -> str:
        """Write numbers beside the vertical axis."""
        return "".join(
            f'<text x="{_LEFT - 6}" y="{self.y(value) + 5:.1f}" text-anchor="end">'
            f"{value:g}</text>"
            for value in values
        )

    def rule(self, value: float) -> str:
        """Draw a broken line at a value."""
        y = self.y(value)
        return (
            f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="currentColor" '
            'opacity="0.5" stroke-dasharray="4 4"/>'
        )

    def svg(self, summary: str, parts: Sequence[str]) -> str:
        """Join parts to a picture."""
        inside = "\n".join(parts)
        return (
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
            f'aria-label="{escape(summary)}">\n{inside}\n</svg>'
        )


def polyline(points: Sequence[tuple[float, float]], color: str = _BLUE) -> str:
    """Draw a line through points."""
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    return f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>'
