"""The progress display: a bar on a terminal or in a notebook, elsewhere lines."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from html import escape
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["DRAWN_LINES", "ProgressDisplay", "track"]

_LOGGER = logging.getLogger(__name__)
# Takes the lines that a bar stands for, if it has a handler.
DRAWN_LINES = logging.getLogger(f"{__name__}.drawn")
_N_LINES = 10
_REDRAW_SECONDS = 0.2  # a notebook keeps what it is sent

T = TypeVar("T")


def track(
    items: Iterable[T], *, total: int, description: str, show: bool = True
) -> Iterator[T]:
    """Yield items while a display shows how many are done."""
    with ProgressDisplay(description, total, show=show) as display:
        for item in items:
            yield item
            display.advance()


class ProgressDisplay:
    """How much of a task is done: a bar, or lines where no bar can be drawn.

    `n_before` items were done by an earlier run and do not count for the pace. There is
    a line for every `log_every` items; by default there are about ten lines.
    """

    def __init__(
        self,
        description: str,
        total: int,
        *,
        n_before: int = 0,
        log_every: int | None = None,
        show: bool = True,
    ) -> None:
        self._description = description
        self._total = total
        self._n_before = self._n_done = n_before
        self._log_every = log_every or max(1, total // _N_LINES)
        self._show = show
        self._first_done = 0.0
        self._bar: _Bar | None = None

    def __enter__(self) -> Self:
        # Imported here: most imports of the library never show progress.
        if self._show:
            from rich.console import Console

            console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
            if console.is_jupyter:
                self._bar = _NotebookBar(self._description, self._total)
            elif sys.stderr.isatty() and not console.is_dumb_terminal:
                self._bar = _TerminalBar(self._description, self._total, console)
        if self._bar is not None:
            self._bar.draw(self._n_done, "")
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(
        self, *, detail: str = "", line: str = "", is_failure: bool = False
    ) -> None:
        """Show that one more item is done.

        `detail`, such as the loss, is shown beside the bar and in lines. `line` is what
        to write about the item where there is no bar, and above a bar for a failure.
        """
        self._n_done += 1
        if not self._show:
            return
        if self._n_done == self._n_before + 1:
            self._first_done = time.perf_counter()
        if is_failure or self._is_time_for_a_line():
            state = self._join(self._description, detail, self._time_left())
            text = f"{self._counter} {line or state}"
            if self._bar is None or is_failure:
                _write(text)  # the bar redraws below it
            elif DRAWN_LINES.handlers:
                DRAWN_LINES.info("%s", text)
        if self._bar is None:
            return
        state = self._join(detail or self._pace(), self._time_left())
        self._bar.draw(self._n_done, state)

    def _is_time_for_a_line(self) -> bool:
        is_first = self._n_done == self._n_before + 1
        is_last = self._n_done == self._total
        return is_first or is_last or self._n_done % self._log_every == 0

    @property
    def _counter(self) -> str:
        return f"[{self._n_done:>{len(str(self._total))}}/{self._total}]"

    @staticmethod
    def _join(*parts: str) -> str:
        return ", ".join(filter(None, parts))

    def _pace(self) -> str:
        seconds = self._seconds_per_item()
        return "" if seconds is None else f"{seconds:.1f} s each"

    def _time_left(self) -> str:
        n_left, seconds = self._total - self._n_done, self._seconds_per_item()
        if n_left <= 0 or seconds is None:
            return ""
        return f"{timedelta(seconds=round(seconds * n_left))} left"

    def _seconds_per_item(self) -> float | None:
        """Return the pace, without the first item, which also warms up."""
        n_timed = self._n_done - self._n_before - 1
        if n_timed == 0:
            return None
        return (time.perf_counter() - self._first_done) / n_timed


class _Bar(Protocol):
    def draw(self, n_done: int, state: str) -> None: ...

    def close(self) -> None: ...


class _TerminalBar:
    """A bar that stays on the last line of a terminal."""

    def __init__(self, description: str, total: int, console: "Console") -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
        )
        self._task = self._progress.add_task(description, total=total, state="")

    def draw(self, n_done: int, state: str) -> None:
        self._progress.update(self._task, completed=n_done, state=state)
        self._progress.start()

    def close(self) -> None:
        self._progress.stop()


class _NotebookBar:
    """A bar as HTML that a notebook replaces; unlike rich's, it needs no widgets."""

    def __init__(self, description: str, total: int) -> None:
        from IPython.display import display

        self._description, self._total = description, total
        self._n_done, self._state, self._drawn = 0, "", -_REDRAW_SECONDS
        self._handle = display(self._bundle(), raw=True, display_id=True)

    def draw(self, n_done: int, state: str) -> None:
        self._n_done, self._state = n_done, state
        if time.monotonic() - self._drawn >= _REDRAW_SECONDS:
            self._handle.update(self._bundle(), raw=True)
            self._drawn = time.monotonic()

    def close(self) -> None:
        self._handle.update(self._bundle(), raw=True)

    def _bundle(self) -> dict[str, str]:
        n_done, total = self._n_done, max(1, self._total)
        state = f"{n_done}/{self._total}" + (f", {self._state}" if self._state else "")
        bar = f'<progress value="{n_done}" max="{total}"></progress>'
        name, words = escape(self._description), escape(state)
        return {
            "text/plain": f"{self._description}: {state}",
            "text/html": f"<div>{name} {bar} {words}</div>",
        }


def _write(line: str) -> None:
    """Log a line, or write it to standard error if the log does not show it."""
    if _LOGGER.isEnabledFor(logging.INFO):
        _LOGGER.info("%s", line)
    else:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
