"""What commands write beside their progress: warnings, log messages and summaries."""

__all__ = [
    "finish",
    "format_counts",
    "format_summary",
    "report_missing_modalities",
    "report_problems",
    "report_total",
    "set_verbosity",
    "show_outcomes",
    "show_own_messages",
]

import logging
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

from brainfeat.cli.log import LogHandler, copy_to_file, end_log, write_line
from brainfeat.exceptions import UntrainedCheckpointWarning
from brainfeat.progress import ProgressDisplay
from brainfeat.subjects.failures import describe_failure, one_line

if TYPE_CHECKING:
    from brainfeat.subjects.manifest import Manifest
    from brainfeat.subjects.subject import Outcome
    from brainfeat.tables.runs import RunSummary

_FAILED = 1  # exit status if some subjects failed


def set_verbosity(verbose: bool) -> None:
    """Show debug messages if the command is verbose."""
    if verbose:
        logging.getLogger("brainfeat").setLevel(logging.DEBUG)


def finish(summary: str, *, failed: bool) -> None:
    """Print the summary of a command; exit with status 1 if some subjects failed."""
    if summary:
        typer.echo(summary)
        copy_to_file(summary)
    if failed:
        raise typer.Exit(_FAILED)


@contextmanager
def show_outcomes(
    total: int,
    *,
    n_failed: int = 0,
    task: str = "embedding",
    if_skipped: str = "in the table already",
    resumes: bool = True,
) -> Iterator[Callable[["Outcome[Any]"], None]]:
    """Show each outcome; an interrupt says how many are kept and how to continue.

    ``total`` counts also the ``n_failed`` inputs that cannot be read.
    """
    start, n_kept = time.perf_counter(), 0
    with ProgressDisplay(task, total, n_before=n_failed, log_every=1) as display:

        def show(outcome: "Outcome[Any]") -> None:
            nonlocal n_kept
            n_kept += outcome.error is None
            if outcome.error is not None:
                line = f"failed: {describe_failure(outcome)}"
            elif outcome.status == "skipped":
                line = f"{_name(outcome)}: {if_skipped}"
            else:
                # Subjects overlap, so that none has a duration of its own.
                seconds = time.perf_counter() - start
                line = f"{_name(outcome)}: done after {seconds:.1f} s"
                if doubt := getattr(
                    getattr(outcome.result, "quality", None), "doubt", ""
                ):
                    line += f", in doubt: {one_line(doubt)}"
            display.advance(line=line, is_failure=outcome.error is not None)

        try:
            yield show
        except KeyboardInterrupt as error:
            advice = "the same command " + ("resumes" if resumes else "starts again")
            error.args = (f"interrupted: {n_kept} of {total} are kept; {advice}.",)
            raise


def _name(outcome: "Outcome[Any]") -> str:
    subject, run = outcome.subject, outcome.subject.metadata.get("run")
    names = (subject.participant_id, subject.session_id, run and f"run-{run}")
    return one_line(" ".join(filter(None, names)))


@contextmanager
def show_own_messages(
    stream: TextIO | None = None, *, command: str = "brainfeat"
) -> Iterator[None]:
    """Write our warnings and logs as lines to standard error; hide other libraries'."""
    ours, nibabel = logging.getLogger("brainfeat"), logging.getLogger("nibabel")
    levels = ours.level, nibabel.level
    handler = LogHandler(stream, command=command)

    def show(message: Warning | str, *_details: object, **_more: object) -> None:
        write_line(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", UntrainedCheckpointWarning)
        warnings.showwarning = show
        ours.addHandler(handler)
        ours.setLevel(logging.INFO)
        # nibabel logs each header field that it corrects.
        nibabel.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            end_log()
            ours.setLevel(levels[0])
            nibabel.setLevel(levels[1])


def report_problems(manifest: "Manifest") -> None:
    """Report duplicates, names that several datasets share, and unusable inputs."""
    for name in manifest.duplicates:
        write_line(f"warning: {name}: given more than once, used once.")
    namesakes = manifest.namesakes
    if namesakes:
        folders = next(iter(namesakes.values()))
        write_line(
            f"warning: {_list_some([*namesakes], 1)}: in {_list_some(folders, 2)}; "
            "rows with the same name count as one subject."
        )
    for problem in manifest.problems:
        write_line(f"failed: {describe_failure(problem)}")


def report_total(manifest: "Manifest") -> int:
    """Write how many subjects a run has; return the number, as its summary does."""
    n_problems = len(manifest.problems)
    total = len(manifest.rows) + n_problems
    unreadable = f", {n_problems} of which cannot be used" if n_problems else ""
    write_line(f"{_count_subjects(total)}{unreadable}")
    return total


def format_counts(done: int, skipped: int, failed: int, not_begun: int = 0) -> str:
    """Say what became of the subjects that `report_total` counted.

    >>> format_counts(59, 0, 2)
    '61 subjects: 59 done, 0 skipped, 2 failed'
    >>> format_counts(0, 0, 1, not_begun=3)
    '4 subjects: 0 done, 0 skipped, 1 failed, 3 not begun'
    """
    total = _count_subjects(done + skipped + failed + not_begun)
    rest = f", {not_begun} not begun" if not_begun else ""
    return f"{total}: {done} done, {skipped} skipped, {failed} failed{rest}"


def report_missing_modalities(manifest: "Manifest", modalities: Sequence[str]) -> None:
    """Warn of rows that lack modalities of others, which their embeddings show."""
    from brainfeat.subjects.subject import join_modalities

    counts = Counter(join_modalities(row.images, modalities) for row in manifest.rows)
    if len(counts) > 1:
        shown = ", ".join(f"{name} ({n} rows)" for name, n in counts.most_common())
        write_line(
            f"warning: rows differ in their modalities: {shown}; embeddings show what "
            "is missing: --require leaves rows out, --only uses some for all."
        )


def format_summary(summary: "RunSummary") -> str:
    """Format the counts of a run and the paths of its files.

    >>> from brainfeat.tables.runs import RunSummary
    >>> print(format_summary(RunSummary(3, 1, 0, 6, 12.0, "out.csv", None)))
    4 subjects: 3 done, 1 skipped, 0 failed in 12 s (2.00 s a volume)
    table:    out.csv
    """
    counts = format_counts(
        summary.done, summary.skipped, summary.failed, summary.not_begun
    )
    lines = [f"{counts} in {summary.seconds:.0f} s"]
    if summary.volumes:
        lines[0] += f" ({summary.seconds / summary.volumes:.2f} s a volume)"
    if summary.output is not None:
        kind = "folder:" if Path(summary.output).is_dir() else "table:"
        kind = "vector:" if Path(summary.output).suffix == ".npy" else kind
        lines.append(f"{kind:<10}{summary.output}")
    if summary.failures is not None:
        lines.append(f"failures: {summary.failures}")
    return "\n".join(lines)


def _count_subjects(number: int) -> str:
    return f"{number} subject{'' if number == 1 else 's'}"


def _list_some(names: Sequence[str], n_listed: int) -> str:
    n_others = len(names) - n_listed
    others = [f"{n_others} more"] if n_others > 0 else []
    return " and ".join([*names[:n_listed], *others])
