"""Drawing the SVG of this library's figures as PNG, by matplotlib."""

import re
from collections.abc import Iterator
from io import BytesIO
from typing import Any
from xml.etree import ElementTree as ET

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, PathPatch, Rectangle
from matplotlib.path import Path

__all__ = ["draw_png"]

_DPI = 300
_FONT_PX = 16.0
_COMMAND = re.compile(r"([MLHVhvlz])([^MLHVhvlz]*)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_ANCHORS = {"start": "left", "middle": "center", "end": "right"}


def draw_png(root: ET.Element, px_per_inch: float) -> bytes:
    """Draw paths, circles, rectangles, lines and text; return the PNG file."""
    _, _, width, height = map(float, root.get("viewBox", "").split())
    figure = Figure((width / px_per_inch, height / px_per_inch), dpi=_DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0.0, width)
    axes.set_ylim(height, 0.0)
    for order, element in enumerate(_flatten(root)):
        _draw(axes, element, order, 72.0 / px_per_inch)
    content = BytesIO()
    figure.savefig(content, format="png", facecolor="white")
    return content.getvalue()


def _flatten(root: ET.Element) -> Iterator[ET.Element]:
    for element in root:
        if element.tag == "g":
            yield from _flatten(element)
        else:
            yield element


def _draw(axes: Axes, element: ET.Element, order: int, points: float) -> None:
    """Draw one element above those before it; ``points`` are those of a pixel."""
    if element.tag == "text":
        _write(axes, element, points)
        return
    shape = _shape(element)
    if shape is not None:
        shape.set(**_style(element, points), zorder=order + 1.0, clip_on=False)
        axes.add_patch(shape)


def _shape(element: ET.Element) -> Any:
    def number(name: str) -> float:
        return float(element.get(name, "0"))

    if element.tag == "circle":
        return Circle((number("cx"), number("cy")), number("r"))
    if element.tag == "rect":
        corner = number("x"), number("y")
        return Rectangle(corner, number("width"), number("height"))
    if element.tag == "polyline":
        values = [float(text) for text in _NUMBER.findall(element.get("points", ""))]
        return PathPatch(Path(list(zip(values[::2], values[1::2], strict=True))))
    if element.tag == "path":
        return PathPatch(_read_path(element.get("d", "")))
    return None


def _read_path(text: str) -> Path:
    points: list[tuple[float, float]] = []
    codes: list[int] = []
    x = y = 0.0
    start = (0.0, 0.0)
    for command, rest in _COMMAND.findall(text):
        values = [float(number) for number in _NUMBER.findall(rest)]
        if command == "z":
            points.append(start)
            codes.append(int(Path.CLOSEPOLY))
            x, y = start
            continue
        is_one = command.upper() in "HV"
        steps = (
            [(v, v) for v in values]
            if is_one
            else zip(values[::2], values[1::2], strict=True)
        )
        for first, second in steps:
            base_x, base_y = (x, y) if command.islower() else (0.0, 0.0)
            x = x if command in "Vv" else base_x + first
            y = y if command in "Hh" else base_y + second
            codes.append(int(Path.MOVETO if command == "M" else Path.LINETO))
            points.append((x, y))
            start = (x, y) if command == "M" else start
    return Path(points, codes)


def _style(element: ET.Element, points: float) -> dict[str, Any]:
    opacity = float(element.get("opacity", "1"))
    stroke = _color(element.get("stroke", "none"))
    fill = _color(element.get("fill", "none" if stroke else "currentColor"))
    width = float(element.get("stroke-width", "1")) * points
    dashes = element.get("stroke-dasharray")
    style: dict[str, Any] = {
        "facecolor": (fill or "none"),
        "edgecolor": (stroke or "none"),
        "linewidth": width if stroke else 0.0,
        "alpha": opacity * float(element.get("fill-opacity", "1")),
    }
    if dashes is not None:
        style["linestyle"] = (0, [float(d) for d in dashes.split()])
    return style


def _color(text: str) -> str | None:
    if text == "none":
        return None
    return "black" if text == "currentColor" else text


def _write(axes: Axes, element: ET.Element, points: float) -> None:
    x, y, angle = float(element.get("x", "0")), float(element.get("y", "0")), 0.0
    numbers = [float(n) for n in _NUMBER.findall(element.get("transform", ""))]
    if len(numbers) == 3:  # translate(x y) rotate(degrees)
        x, y, angle = numbers[0], numbers[1], -numbers[2]
    size = re.search(r"font-size:\s*([\d.]+)px", element.get("style", ""))
    axes.text(
        x,
        y,
        "".join(element.itertext()),
        fontsize=(float(size[1]) if size else _FONT_PX) * points,
        rotation=angle,
        rotation_mode="anchor",
        ha=_ANCHORS[element.get("text-anchor", "start")],
        va="baseline",
        parse_math=False,
        zorder=1e6,
    )
