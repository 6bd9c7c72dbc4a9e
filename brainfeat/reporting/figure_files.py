"""Figures of a page as files for a paper: SVG, and PNG of the same."""

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

from brainfeat.exceptions import import_optional
from brainfeat.io.atomic import atomic_write

__all__ = ["check_can_draw", "write_figures"]

_FIGURE = re.compile(r'<svg viewBox="[^"]*" role="img".*?</svg>', re.DOTALL)
_PX_PER_INCH = 128.0  # 448 px are 3.5 inches, a column of a journal
_FONT = "16px Helvetica, Arial, sans-serif"


def check_can_draw() -> None:
    """Raise MissingDependencyError if PNG cannot be drawn."""
    message = 'figures need matplotlib: pip install "brainfeat[figures]"'
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
    for text in _FIGURE.findall(body):
        if "<image" in text:
            continue  # a brain under outlines that the page holds
        root = ET.fromstring(text)
        yield root.get("aria-label", "figure"), root


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
