"""Figures of a page as files for a paper: SVG, and PNG of the same."""

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from xml.etree import ElementTree as ET

from brainfeat.exceptions import import_optional
from brainfeat.io.atomic import atomic_write
from brainfeat.reporting.figures import draw_mark, order_labels

__all__ = ["check_can_draw", "write_figures"]

_FIGURE = re.compile(
    r'(<svg viewBox="[^"]*" role="img".*?</svg>)(?:<figcaption>(.*?)</figcaption>)?',
    re.DOTALL,
)
_KEY = re.compile(r'<span class="key"><svg.*?</svg>(.*?)</span>', re.DOTALL)
_LINE, _CHARACTER = 22.0, 9.0  # px of a legend: a line, and a character at most
_PX_PER_INCH = 128.0  # 448 px are 3.5 inches, a column of a journal
_FONT = "16px Helvetica, Arial, sans-serif"


def check_can_draw() -> None:
    """Raise MissingDependencyError if PNG cannot be drawn."""
    message = 'figures need matplotlib: pip install "brainfeat[plotting]"'
    import_optional("matplotlib", message)


def write_figures(body: str, folder: Path) -> list[Path]:
    """Write each figure of a page but its brains; return the SVG files.

    Their names are what the figures show, such as ``02-roc-of-AD.svg``; the PNG of a
    figure lies beside it, at 300 dots an inch.
    """
    from brainfeat.reporting.figure_png import draw_png

    files = []
    for number, (label, root) in enumerate(_find_figures(body), start=1):
        words = re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-")[:60]
        path = folder / f"{number:02d}-{words}.svg"
        with atomic_write(path) as partial:
            partial.write_bytes(ET.tostring(_stand_alone(root), encoding="utf-8"))
        with atomic_write(path.with_suffix(".png")) as partial:
            partial.write_bytes(draw_png(root, _PX_PER_INCH))
        files.append(path)
    return files


def _find_figures(body: str) -> Iterator[tuple[str, ET.Element]]:
    for text, caption in _FIGURE.findall(body):
        if "<image" in text:
            continue  # a brain under outlines that the page holds
        root = ET.fromstring(text)
        _add_legend(root, [unescape(name) for name in _KEY.findall(caption)])
        yield root.get("aria-label", "figure"), root


def _add_legend(root: ET.Element, names: list[str]) -> None:
    """Draw the legend of a caption below its figure, which grows by its lines."""
    if not names:
        return
    left, top, width, height = map(float, root.get("viewBox", "").split())
    x, y = 16.0, height + _LINE / 2.0
    for number, name in enumerate(order_labels(names)):
        room = 24.0 + _CHARACTER * len(name)
        if x > 16.0 and x + room > width:
            x, y = 16.0, y + _LINE
        root.append(ET.fromstring(draw_mark(x, y, number, name)))
        text = ET.SubElement(root, "text", {"x": f"{x + 12:.1f}", "y": f"{y + 5:.1f}"})
        text.text = name
        x += room
    root.set("viewBox", f"{left:g} {top:g} {width:g} {y + _LINE / 2.0:g}")


def _stand_alone(figure: ET.Element) -> ET.Element:
    """Return a figure with its own size, font and white ground."""
    root = ET.fromstring(ET.tostring(figure))
    _, _, width, height = map(float, root.get("viewBox", "").split())
    root.attrib.pop("role", None)
    root.set("xmlns", "http://www.w3.org/2000/svg")
    root.set("width", f"{width / _PX_PER_INCH:.3f}in")
    root.set("height", f"{height / _PX_PER_INCH:.3f}in")
    root.set("style", f"font: {_FONT}; color: #000")
    root.set("fill", "currentColor")
    ground = ET.Element("rect", {"width": "100%", "height": "100%", "fill": "#fff"})
    root.insert(0, ground)
    return root
