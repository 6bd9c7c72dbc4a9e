"""What a user sees while an encoder is trained: progress, failures and a summary."""

__all__ = ["TrainingDisplay", "format_training"]

import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Self, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from brainfeat.pretraining.store_writer import ScanEvent
from brainfeat.pretraining.trainer import StepEvent
from brainfeat.subjects.failures import one_line

if TYPE_CHECKING:
    from brainfeat.pretraining.run import TrainingSummary


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

    def __call__(self, event: "ScanEvent | StepEvent") -> None:
        """Show one scan or one step.

        Parameters
        ----------
        event : ScanEvent or StepEvent
            What is done.
        """
        if isinstance(event, ScanEvent):
            self._show_scan(event)
        else:
            self._show_step(event)

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def _show_scan(self, event: ScanEvent) -> None:
        failure = f"failed: {one_line(str(event.error))}" if event.error else ""
        if self._bars is not None:
            if failure:
                self._bars.console.print(failure, markup=False)
            self._advance("preprocessing", event.n_done, event.n_scans, "")
            return
        counter = _counter(event.n_done, event.n_scans)
        self._write(f"{counter} {event.scan.subject}: {failure or 'preprocessed'}")

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


def format_training(summary: "TrainingSummary") -> str:
    """Say what a run did, and where its files are.

    Parameters
    ----------
    summary : TrainingSummary
        Counts and files.

    Returns
    -------
    str
        Lines for a terminal.
    """
    lines = [f"{summary.n_steps} steps done"]
    if summary.loss is not None:
        lines[0] += f", final loss {summary.loss:.3f}"
    if summary.failed:
        lines[0] += f", {len(summary.failed)} failed"
    lines.append(f"checkpoint: {summary.folder}")
    if summary.failures is not None:
        lines.append(f"failures:   {summary.failures}")
    return "\n".join(lines)


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
