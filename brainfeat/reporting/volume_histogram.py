"""A histogram of the volumes of brains as SVG."""

__all__ = ["volume_histogram_svg"]

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from brainfeat.reporting.plots import PlotFrame

_BLUE, _ORANGE = "#0072b2", "#d55e00"
_NARROWEST = 200.0  # ml that are shown at least
_N_BINS, _N_TICKS = 24, 5


def volume_histogram_svg(
    volumes: NDArray[np.floating], in_doubt: NDArray[np.bool_]
) -> str:
    """Count volumes in ml; rows in doubt are orange, at the bottom of the bars."""
    middle = float(volumes.min() + volumes.max()) / 2.0
    half = max(float(np.ptp(volumes)), _NARROWEST) / 2.0
    edges = np.linspace(middle - half, middle + half, _N_BINS + 1)
    counts = np.histogram(volumes, edges)[0]
    doubtful = np.histogram(volumes[in_doubt], edges)[0]
    frame = PlotFrame((edges[0], edges[-1]), (0.0, float(counts.max())))
    parts = [
        frame.axes("volume of the brain, ml", "rows"),
        frame.y_ticks([0, int(counts.max())]),
        *(frame.x_tick(v, f"{v:.0f}") for v in edges[:: (_N_BINS // (_N_TICKS - 1))]),
    ]
    for index, (n_rows, n_doubtful) in enumerate(zip(counts, doubtful, strict=True)):
        low, high = edges[index], edges[index + 1]
        parts.append(
            f"<g><title>{low:.0f} to {high:.0f} ml: {n_rows} rows, {n_doubtful} in "
            f"doubt</title>{_bar(frame, (low, high), (0, n_doubtful), _ORANGE)}"
            f"{_bar(frame, (low, high), (n_doubtful, n_rows), _BLUE)}</g>"
        )
    return frame.svg("Histogram of the volumes of brains", parts)


def _bar(frame: PlotFrame, x: Sequence[float], y: Sequence[float], color: str) -> str:
    if y[1] <= y[0]:
        return ""
    left, right, bottom, top = *map(frame.x, x), *map(frame.y, y)
    return (
        f'<rect x="{left + 0.5:.1f}" y="{top:.1f}" width="{right - left - 1.0:.1f}" '
        f'height="{bottom - top:.1f}" fill="{color}"/>'
    )
