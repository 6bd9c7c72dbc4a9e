"""What a user sees while a command runs: progress, failures and a summary."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from brainfeat.subjects.failures import describe_failure, one_line

if TYPE_CHECKING:
    from brainfeat.subjects.subject import Outcome

__all__ = [
    "RunDisplay",
    "count_rows",
    "show_run",
]


class RunDisplay:
    """Progress of a run: a bar on a terminal, elsewhere a line a subject.

    Parameters
    ----------
    n_rows : int
        Rows of the run.
    stream : text file, optional
        Where to write, standard error by default.
    task : str
        What is done, for the bar.
    kept : str
        What is said of a row that is skipped.

    Attributes
    ----------
    n_done : int
        Rows that are in the table so far.
    """

    def __init__(
        self,
        n_rows: int,
        stream: TextIO | None = None,
        *,
        task: str = "embedding",
        kept: str = "in the table already",
    ) -> None:
        self.n_done = 0
        self._kept = kept
        self._n_rows = n_rows
        self._n_seen = 0
        self._stream = stream or sys.stderr
        self._start = time.perf_counter()
        self._bar = _make_bar(self._stream) if self._stream.isatty() else None
        self._task = self._bar.add_task(task, total=n_rows) if self._bar else None

    def __call__(self, event: "Outcome[Any]") -> None:
        """Show what became of one row.

        Parameters
        ----------
        event : Outcome
            The row and its end.
        """
        self._n_seen += 1
        self.n_done += event.status != "failed"
        if self._bar is not None and self._task is not None:
            if event.error:
                self._bar.console.print(
                    f"failed: {describe_failure(event)}", markup=False
                )
            self._bar.update(self._task, advance=1)
            return
        width = len(str(self._n_rows))
        counter = f"[{self._n_seen:>{width}}/{self._n_rows}]"
        self._stream.write(f"{counter} {self._describe(event)}\n")
        self._stream.flush()

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _describe(self, event: "Outcome[Any]") -> str:
        if event.error:
            return f"failed: {describe_failure(event)}"
        row, run = event.subject, event.subject.metadata.get("run")
        names = (row.participant_id, row.session_id, run and f"run-{run}")
        name = one_line(" ".join(filter(None, names)))
        if event.status == "skipped":
            return f"{name}: {self._kept}"
        # Of the run: rows are worked on side by side, and have no time of their own.
        seconds = time.perf_counter() - self._start
        return f"{name}: done after {seconds:.1f} s"


@contextmanager
def show_run(
    n_rows: int,
    *,
    task: str = "embedding",
    kept: str = "in the table already",
    goes_on: bool = True,
) -> Iterator[RunDisplay]:
    """Show what becomes of rows; an interrupt says what is kept.

    Parameters
    ----------
    n_rows : int
        Rows of the run.
    task, kept : str
        As for `RunDisplay`.
    goes_on : bool
        Whether the same command goes on where an interrupt stopped it.

    Yields
    ------
    RunDisplay
        To be told of each row.

    Raises
    ------
    KeyboardInterrupt
        If the user or the system ends the run.
    """
    display = RunDisplay(n_rows, task=task, kept=kept)
    try:
        with display:
            yield display
    except KeyboardInterrupt as error:
        advice = "the same command again " + ("goes on" if goes_on else "begins anew")
        error.args = (f"interrupted: {display.n_done} of {n_rows} are kept; {advice}.",)
        raise


@contextmanager
def count_rows(
    name: str, stream: TextIO | None = None
) -> Iterator[Callable[[int, int], None]]:
    """Show how many rows are done: a bar on a terminal, elsewhere about ten lines.

    Parameters
    ----------
    name : str
        What is done to them.
    stream : text file, optional
        Where to write, standard error by default.

    Yields
    ------
    callable
        To be called with how many are done, and of how many.
    """
    target = stream or sys.stderr
    if not target.isatty():

        def tell(n_done: int, n_rows: int) -> None:
            if n_done == n_rows or n_done % max(1, n_rows // 10) == 0:
                target.write(f"{name}: {n_done} of {n_rows}\n")
                target.flush()

        yield tell
        return
    with _make_bar(target) as bar:
        task = bar.add_task(name, total=None)
        yield lambda n_done, n_rows: bar.update(task, completed=n_done, total=n_rows)


class _PaceColumn(ProgressColumn):
    """Seconds that a subject takes."""

    def render(self, task: Task) -> Text:
        if not task.speed:
            return Text("")
        return Text(f"{1 / task.speed:.1f} s each", style="progress.data.speed")


def _make_bar(stream: TextIO) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _PaceColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=Console(file=stream, highlight=False, soft_wrap=True),
    )
