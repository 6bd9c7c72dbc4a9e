"""What a user sees while a command runs: progress, failures and a summary."""

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
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

from brainfeat.exceptions import UntrainedCheckpointWarning
from brainfeat.subjects.failures import describe_failure, one_line

if TYPE_CHECKING:
    # With torch, and slow.
    from brainfeat.checkpoint.checkpoint import Checkpoint
    from brainfeat.subjects.manifest import Manifest
    from brainfeat.subjects.subject import Outcome
    from brainfeat.tables.runs import RunSummary

__all__ = [
    "RunDisplay",
    "count_rows",
    "format_checkpoint",
    "format_summary",
    "own_messages_only",
    "show_run",
    "tell_problems",
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


def tell_problems(manifest: "Manifest") -> None:
    """Tell of inputs that are no row, and of names that may be several people's.

    Parameters
    ----------
    manifest : Manifest
        Rows and problems.
    """
    for name in manifest.duplicates:
        _say(f"warning: {name}: given more than once, used once.")
    namesakes = manifest.namesakes
    if namesakes:
        folders = next(iter(namesakes.values()))
        _say(
            f"warning: {_list_some([*namesakes], 1)}: in {_list_some(folders, 2)}; "
            "rows of one name count as one person."
        )
    for problem in manifest.problems:
        _say(f"failed: {describe_failure(problem)}")


def format_summary(summary: "RunSummary") -> str:
    """Say what a run did, and where its files are.

    Parameters
    ----------
    summary : RunSummary
        Counts and files.

    Returns
    -------
    str
        Lines for a terminal.

    Examples
    --------
    >>> from brainfeat.tables.runs import RunSummary
    >>> print(format_summary(RunSummary(3, 1, 0, 6, 12.0, "out.csv", None)))
    3 done, 1 skipped, 0 failed in 12 s (2.00 s a volume)
    table:    out.csv
    """
    counts = f"{summary.done} done, {summary.skipped} skipped, {summary.failed} failed"
    pace = summary.seconds / summary.volumes if summary.volumes else None
    lines = [
        f"{counts} in {summary.seconds:.0f} s"
        + (f" ({pace:.2f} s a volume)" if pace is not None else "")
    ]
    if summary.output is not None:
        what = "folder:" if Path(summary.output).is_dir() else "table:"
        lines.append(f"{what:<10}{summary.output}")
    if summary.failures is not None:
        lines.append(f"failures: {summary.failures}")
    return "\n".join(lines)


def format_checkpoint(checkpoint: "Checkpoint") -> str:
    """Describe a checkpoint.

    Parameters
    ----------
    checkpoint : Checkpoint
        Weights and their configuration.

    Returns
    -------
    str
        Lines for a terminal, one a property.
    """
    config, encoder = checkpoint.config, checkpoint.config.encoder
    n_parameters = sum(value.numel() for value in checkpoint.state.values())
    missing = "any may be missing" if config.missing_modalities else "all needed"
    parts = [f"{encoder.depth} blocks of width {encoder.embed_dim}"]
    parts.append(f"{encoder.num_heads} heads, patches of {encoder.patch_size} pixels")
    if encoder.slab_mixing:
        parts.append(f"slabs joined after blocks {encoder.slab_mixing}")
    state = "trained" if config.trained else "not trained: random weights"
    lines = {
        "description": config.description or "none",
        "state": state,
        "modalities": f"{', '.join(encoder.modalities)} ({missing})",
        "slabs": f"{config.plane}, {encoder.thickness} slices",
        "network": ", ".join(parts),
        "parameters": f"{n_parameters / 1e6:.1f} million",
        "features": f"{encoder.embed_dim} a subject (cls+mean: twice as many)",
        "anatomy": ", ".join(encoder.tissues) or "none is read from the tokens",
        "preprocessing": _describe_preprocessing(config.preprocessing),
        "written by": f"brainfeat {config.library_version}",
        "fingerprint": checkpoint.fingerprint,
    }
    return "\n".join(f"{name + ':':<15} {text}" for name, text in lines.items())


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


@contextmanager
def own_messages_only(stream: TextIO | None = None) -> Iterator[None]:
    """Show our own warnings and logs as a line each, and those of libraries not.

    Parameters
    ----------
    stream : text file, optional
        Where to write, standard error by default.

    Yields
    ------
    None
        While this holds.
    """
    ours, nibabel = logging.getLogger("brainfeat"), logging.getLogger("nibabel")
    levels = ours.level, nibabel.level
    handler = _Messages(stream)

    def show(message: Warning | str, *_details: object, **_more: object) -> None:
        (stream or sys.stderr).write(f"warning: {one_line(str(message))}\n")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", UntrainedCheckpointWarning)
        warnings.showwarning = show
        ours.addHandler(handler)
        ours.setLevel(logging.INFO)
        # It logs a line for each header field that it corrects.
        nibabel.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            ours.removeHandler(handler)
            ours.setLevel(levels[0])
            nibabel.setLevel(levels[1])


class _Messages(logging.Handler):
    """Write each message to the standard error of its moment: a bar takes its place."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message, and say whether it warns."""
        mark = "warning: " if record.levelno >= logging.WARNING else ""
        (self._stream or sys.stderr).write(f"{mark}{self.format(record)}\n")


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


def _describe_preprocessing(values: Mapping[str, Any]) -> str:
    known = {"shape", "spacing"} & values.keys()
    parts = []
    if len(known) == 2:
        sizes = " x ".join(map(str, values["shape"]))
        parts.append(f"{sizes} voxels of {values['spacing']} mm")
    others = (name for name in values if name not in known)
    parts += [f"{name} {_plain(values[name])}" for name in others]
    return ", ".join(parts).replace("_", " ")


def _plain(value: object) -> str:
    words = {None: "none", True: "yes", False: "no"}
    if isinstance(value, list | tuple):
        return " to ".join(map(str, value))
    return (
        words.get(value, str(value)) if isinstance(value, bool | None) else str(value)
    )


def _list_some(names: Sequence[str], n_listed: int) -> str:
    n_others = len(names) - n_listed
    others = [f"{n_others} more"] if n_others > 0 else []
    return " and ".join([*names[:n_listed], *others])


def _say(line: str) -> None:
    sys.stderr.write(f"{one_line(line)}\n")
