"""What a user sees while an encoder is trained: progress, failures and a summary."""

__all__ = ["TrainingDisplay"]

import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, Self, TextIO, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from brainfeat.pretraining.trainer import StepEvent
from brainfeat.subjects.failures import one_line
from brainfeat.subjects.subject import Outcome

T = TypeVar("T")


class TrainingDisplay:
    """Progress of a run: two bars on a terminal, elsewhere lines.

    Parameters
    ----------
    log_every : int
        Steps between two lines.
    stream : text file, optional
        Where to write, standard error by default.
    """

    def __init__(self, log_every: int, stream: TextIO | None = None) -> None:
        self._log_every = log_every
        self._stream = stream or sys.stderr
        self._bars = _make_bars(self._stream) if self._stream.isatty() else None
        self._tasks: dict[str, TaskID] = {}
        self._n_seen = 0
        self._started = time.perf_counter()

    def track(self, items: Iterable[T], *, total: int, description: str) -> Iterator[T]:
        """Yield the items, and show each outcome or step."""
        for number, item in enumerate(items, 1):
            if isinstance(item, StepEvent):
                self._show_step(item)
            elif isinstance(item, Outcome):
                self._show_outcome(item, number, total, description)
            yield item

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def _show_outcome(
        self, outcome: Outcome[Any], n_done: int, total: int, description: str
    ) -> None:
        failure = f"failed: {one_line(str(outcome.error))}" if outcome.error else ""
        if self._bars is not None:
            if failure:
                self._bars.console.print(failure, markup=False)
            self._advance(description, n_done, total, "")
            return
        name = outcome.subject.participant_id
        self._write(f"{_counter(n_done, total)} {name}: {failure or 'preprocessed'}")

    def _show_step(self, event: StepEvent) -> None:
        # Time is counted from the end of the first step, which also warms up.
        now = time.perf_counter()
        if self._n_seen == 0:
            self._started = now
        self._n_seen += 1
        loss, pace = event.measures["total"], event.measures["subjects_per_second"]
        detail = f"loss {loss:.3f}, {pace:.1f} subjects/s"
        if self._bars is not None:
            self._advance("training", event.n_done, event.n_steps, detail)
            return
        is_last = event.n_done == event.n_steps
        if event.n_done % self._log_every == 0 or self._n_seen == 1 or is_last:
            counter = _counter(event.n_done, event.n_steps)
            self._write(f"{counter} {detail}{self._time_left(event, now)}")

    def _time_left(self, event: StepEvent, now: float) -> str:
        n_left = event.n_steps - event.n_done
        if self._n_seen < 2 or n_left == 0:
            return ""
        seconds = (now - self._started) / (self._n_seen - 1) * n_left
        return f", {timedelta(seconds=round(seconds))} left"

    def _advance(self, name: str, n_done: int, total: int, detail: str) -> None:
        if self._bars is None:
            return
        if name not in self._tasks:
            # What an earlier run did says nothing of the pace of this one.
            self._tasks[name] = self._bars.add_task(
                name, total=total, completed=n_done - 1, detail=detail
            )
        self._bars.update(self._tasks[name], completed=n_done, detail=detail)

    def _write(self, line: str) -> None:
        self._stream.write(f"{one_line(line)}\n")
        self._stream.flush()


def _make_bars(stream: TextIO) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=Console(file=stream, highlight=False, soft_wrap=True),
    )


def _counter(number: int, total: int) -> str:
    return f"[{number:>{len(str(total))}}/{total}]"
