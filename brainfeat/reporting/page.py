"""The HTML page of a report: one file that needs no network, script or server."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

__all__ = [
    "fact_table",
    "frame",
    "is_own_page",
    "notes",
    "render_page",
    "score_table",
    "scroll_box",
]

# All rules are below one class, so that they do not affect a notebook. Where the class
# is repeated, Jupyter has rules for its own tables that would outweigh ours.
_STYLE = """
.brainfeat { font: 16px/1.55 system-ui, sans-serif; margin: 0 auto; max-width: 76rem;
  padding: 1rem; box-sizing: border-box; }
.brainfeat h1 { font-size: 1.5rem; line-height: 1.25; margin: 0.5rem 0; }
.brainfeat h2 { font-size: 1.2rem; margin: 2.2rem 0 0.5rem; }
.brainfeat h3 { font-size: 1rem; margin: 1.2rem 0 0.3rem; }
.brainfeat p, .brainfeat li { max-width: 46rem; }
.brainfeat .note { border-left: 4px solid #d55e00; padding: 0.25rem 0.75rem;
  margin: 1rem 0; }
.brainfeat table { border-collapse: collapse; width: 100%; max-width: 46rem;
  table-layout: auto; font-size: 1rem; margin: 0; }
.brainfeat .scroll { overflow-x: auto; max-width: 46rem; }
.brainfeat .scroll + .scroll, .brainfeat table + .scroll { margin-top: 1.5rem; }
.brainfeat.brainfeat th, .brainfeat.brainfeat td {
  border-bottom: 1px solid #8886; font-weight: normal;
  padding: 0.35rem 0.5rem 0.35rem 0; text-align: left; vertical-align: top;
  max-width: none; line-height: 1.55; }
.brainfeat.brainfeat thead th { font-weight: 600; vertical-align: bottom; }
.brainfeat.brainfeat .number { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.brainfeat.brainfeat th.number { white-space: normal; }
.brainfeat.brainfeat * + .number { padding-left: 0.75rem; }
.brainfeat.brainfeat tbody td:first-child { overflow-wrap: anywhere; min-width: 8rem; }
.brainfeat .path { overflow-wrap: anywhere; }
.brainfeat figure { margin: 0; min-width: 0; }
.brainfeat figcaption { font-size: 0.875rem; opacity: 0.85; margin-top: 0.2rem;
  overflow-wrap: anywhere; }
.brainfeat .figures { display: grid; gap: 1.2rem;
  grid-template-columns: repeat(auto-fill, min(28rem, 100%)); }
.brainfeat .brains { display: grid; gap: 0.9rem;
  grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); }
.brainfeat .brains svg { background: #000; border-radius: 4px; }
.brainfeat .brains .suspect svg { outline: 3px solid #d55e00; }
.brainfeat svg { width: 100%; height: auto; display: block;
  font: 16px system-ui, sans-serif; fill: currentColor; }
.brainfeat .brains text { font-size: 10px; fill: #fff; }
.brainfeat .key { white-space: nowrap; margin-right: 0.6em; }
.brainfeat .key svg { display: inline; width: 1em; height: 1em;
  vertical-align: -0.12em; margin-right: 0.25em; }
.brainfeat .bar { background: #0072b2; height: 0.45em; border-radius: 2px;
  display: block; min-width: 1px; }
.brainfeat details { margin: 1rem 0; }
.brainfeat summary { cursor: pointer; padding: 0.4rem 0; }
.brainfeat pre { font-size: 0.85rem; overflow-x: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.brainfeat .hidden { position: absolute; width: 0; height: 0; }
"""

_FRAME = '<div class="brainfeat">'
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>:root {{ color-scheme: light dark; }} body {{ margin: 0; }}</style>
</head>
<body>
{body}
</body>
</html>
"""


def render_page(title: str, body: str) -> str:
    """Wrap a body in a whole page."""
    return _PAGE.format(title=escape(title), body=body)


def is_own_page(path: Path) -> bool:
    """Whether an existing file was written by `render_page` and `frame`."""
    return _FRAME.encode() in path.read_bytes()


def frame(sections: Iterable[str]) -> str:
    """Join sections to one element with its own style, for a page or a notebook."""
    body = "\n".join(sections)
    return f"{_FRAME}\n<style>{_STYLE}</style>\n{body}\n</div>"


def notes(texts: Iterable[str]) -> str:
    """Format paragraphs that a reader must not miss."""
    return "\n".join(f'<p class="note">{escape(text)}</p>' for text in texts)


def fact_table(facts: Mapping[str, str]) -> str:
    """Format names and values as a table."""
    lines = "\n".join(
        f'<tr><th>{escape(name)}</th><td class="path">{escape(value)}</td></tr>'
        for name, value in facts.items()
    )
    return f"<table>\n{lines}\n</table>"


def score_table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Format a table whose first column is text and whose others are numbers."""
    head = f"<thead><tr>{_cells('th', header)}</tr></thead>"
    body = "\n".join(f"<tr>{_cells('td', line)}</tr>" for line in lines)
    return scroll_box(f"<table>\n{head}\n<tbody>\n{body}\n</tbody>\n</table>")


def scroll_box(table: str) -> str:
    """Let a table that is wider than the page scroll by itself, also by keys."""
    return f'<div class="scroll" tabindex="0">{table}</div>'


def _cells(tag: str, texts: Sequence[str]) -> str:
    first, *others = texts
    return f"<{tag}>{escape(first)}</{tag}>" + "".join(
        f'<{tag} class="number">{escape(text.replace("+-", "±"))}</{tag}>'
        for text in others
    )
