"""Results that describe themselves: as a line, as text, and in a notebook."""

__all__ = ["Summarised", "format_facts"]

import textwrap
from collections.abc import Iterable, Iterator
from html import escape

_WIDTH = 80  # of a terminal
_INDENT = 16  # where values begin
_FRAME = "font-family: system-ui, sans-serif; max-width: 60rem; line-height: 1.45"
_CELL = "text-align: left; vertical-align: top; padding: 0.1rem 1.2rem 0.1rem 0"
_NOTE = "border-left: 4px solid #d55e00; padding-left: 0.6rem; margin: 0.4rem 0"


class Summarised:
    """Base of results with a `summary`, which `repr` and notebooks show, too."""

    def summary(self) -> str:
        """Summarise as lines of text for a terminal."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._headline()}>"

    def _repr_html_(self) -> str:
        # The name by which the display of notebooks asks for HTML.
        parts = (self._heading_html(), self._details_html(), self._summary_html())
        return f'<div style="{_FRAME}">\n' + "\n".join(filter(None, parts)) + "\n</div>"

    def _headline(self) -> str:
        """Return what a reader must know, in less than a line."""
        return self.summary().partition("\n")[0]

    def _details_html(self) -> str:
        """Return pictures or tables to show above the summary."""
        return ""

    def _heading_html(self) -> str:
        headline = escape(self._headline())
        return f"<p><strong>{type(self).__name__}</strong>: {headline}</p>"

    def _summary_html(self) -> str:
        rows, warnings = [], []
        for name, value in _read_facts(self.summary()):
            text = escape(value.replace("+-", "±"))
            if name == "note":
                warnings.append(f'<p style="{_NOTE}">{text}</p>')
            elif name:
                rows.append(
                    f'<tr><th style="{_CELL}">{escape(name)}</th>'
                    f'<td style="{_CELL}; overflow-wrap: anywhere">{text}</td></tr>'
                )
            else:
                rows.append(f'<tr><td colspan="2" style="{_CELL}">{text}</td></tr>')
        table = ["<table>", *rows, "</table>"] if rows else []
        return "\n".join([*table, *warnings])


def format_facts(facts: Iterable[tuple[str, str]]) -> str:
    """Wrap texts beside their names; an address is kept in one piece.

    >>> print(format_facts([("subjects", "12"), ("remark", ""), ("sites", "a, b")]))
    subjects:       12
    sites:          a, b
    """
    wrap = textwrap.TextWrapper(
        _WIDTH,
        subsequent_indent=" " * _INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    lines = (f"{name + ':':<{_INDENT - 1}} {text}" for name, text in facts if text)
    return "\n".join(map(wrap.fill, lines))


def _read_facts(text: str) -> Iterator[tuple[str, str]]:
    """Yield names and values of a summary; a line without a name has "" for it."""
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(" ") and lines:
            lines[-1] += f" {line.strip()}"  # wrapped
        else:
            lines.append(line.strip())
    for line in lines:
        name, colon, value = line.partition(": ")
        yield (name, value.strip()) if colon else ("", line)
