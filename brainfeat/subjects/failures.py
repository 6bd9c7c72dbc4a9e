"""Errors of subjects: naming the file, and listing them beside the output."""

import os
import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from brainfeat.exceptions import BrainfeatError, TableError
from brainfeat.io.atomic import atomic_write
from brainfeat.io.delimited_rows import read_rows, write_rows
from brainfeat.io.locks import FolderBusyError, lock_folder, release_folder

if TYPE_CHECKING:
    from brainfeat.subjects.subject import Outcome, Subject

__all__ = [
    "add_context",
    "adding_context",
    "count_failures",
    "crash_path",
    "describe_failure",
    "describe_failures",
    "failures_path",
    "is_failures_path",
    "merge_failures",
    "one_line",
    "outdated_by",
    "read_failures",
    "release_frames",
    "unique_failures",
    "write_failures",
]

_N_REASONS = 3  # in a warning

_FAILURES_SUFFIX = ".failures.tsv"
_MAX_TRACEBACKS = 1000
_MAX_TRACEBACK_LENGTH = 10_000  # characters
# Between two tracebacks.
_SEPARATOR = f"\n{'=' * 72}\n\n"


def add_context(error: Exception, subject: "Subject") -> Exception:
    """Prefix an error with the subject's file or name; errors of others get a note."""
    if not isinstance(error, BrainfeatError):
        error.add_note(f"while preprocessing {subject.source_name}")
        return error
    names = (*subject.paths.values(), subject.source_name, subject.participant_id)
    if str(error).startswith(tuple(f"{name}: " for name in names)):
        return error
    in_context = type(error)(f"{subject.source_name}: {error}")
    in_context.__cause__ = error
    return in_context


@contextmanager
def adding_context(subject: "Subject") -> Iterator[None]:
    """Raise errors of the block as `add_context` returns them."""
    try:
        yield
    except Exception as error:
        in_context = add_context(error, subject)
        if in_context is error:
            raise
        raise in_context from error


def release_frames(error: BaseException) -> None:
    """Free the local variables, such as volumes, that tracebacks keep alive."""
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__


class _Line(NamedTuple):
    """One line of a table of failures."""

    participant_id: str
    file: str
    reason: str

    @classmethod
    def of(cls, outcome: "Outcome[Any]") -> "_Line":
        subject, error = outcome.subject, outcome.error
        # Stripped before it is one line: a name may have blanks or line breaks.
        reason = one_line(str(error).removeprefix(f"{subject.source_name}: "))
        return cls(
            subject.participant_id, subject.source_name, reason or type(error).__name__
        )

    @property
    def heading(self) -> str:
        """First line of the traceback's section."""
        return one_line(self.participant_id) + "  " + self.description

    @property
    def description(self) -> str:
        return one_line(f"{self.file}: {self.reason}")


def describe_failure(outcome: "Outcome[Any]") -> str:
    """Return ``file: reason`` of a failed outcome, in one printable line."""
    return _Line.of(outcome).description


def describe_failures(failures: Sequence["Outcome[Any]"]) -> str:
    """Describe the first failures in one line."""
    more = " ..." if len(failures) > _N_REASONS else ""
    return " ".join(map(describe_failure, failures[:_N_REASONS])) + more


def unique_failures(failures: Iterable["Outcome[Any]"]) -> tuple["Outcome[Any]", ...]:
    """Drop failures that would be the same line of a table."""
    by_line: dict[_Line, Outcome[Any]] = {}
    for failure in failures:
        by_line.setdefault(_Line.of(failure), failure)
    return tuple(by_line.values())


def one_line(text: str) -> str:
    r"""Make a text safe to print: one line, without control characters.

    >>> one_line("a\nb \x1b[2J.nii")
    'a b ?[2J.nii'
    """
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def failures_path(output: str | os.PathLike[str]) -> Path:
    """Name the table of failures of a table: ``out.failures.tsv``."""
    return Path(output).with_suffix(_FAILURES_SUFFIX)


def read_failures(output: str | os.PathLike[str]) -> list[tuple[str, str, str]]:
    """Read subject, file and reason of the failures of a table; empty without any."""
    return [(*line,) for line in _read_failures(failures_path(output))]


def is_failures_path(path: Path) -> bool:
    """Whether a file is a table of failures by its name."""
    return path.name.endswith(_FAILURES_SUFFIX)


def crash_path(path: str | os.PathLike[str]) -> Path:
    """Name the tracebacks of a table of failures: ``out.failures.txt``."""
    return Path(path).with_suffix(".txt")


def write_failures(
    path: str | os.PathLike[str],
    failures: Sequence["Outcome[Any]"],
    *,
    tracebacks: bool = False,
    working_folder: Path | None = None,
    is_outdated: Callable[[_Line], bool] = lambda _: True,
) -> Path | None:
    """Write a table of failed outcomes, or remove it if it would be empty.

    Failures of earlier runs are kept unless ``is_outdated``, from `outdated_by`; by
    default none is kept. ``tracebacks`` go to a text beside the table. Partial files
    lie in ``working_folder``, on the same disk. Several processes may write to one
    table: each waits for the others.
    """
    path = Path(path)
    lines = [_Line.of(failure) for failure in failures]
    new = {(line.participant_id, line.file) for line in lines}
    with _locked(path):
        kept = [
            line
            for line in _read_failures(path)
            if not is_outdated(line) and (line.participant_id, line.file) not in new
        ]
        sections = _read_sections(crash_path(path), kept)
        sections += _format_tracebacks(failures) if tracebacks else []
        _replace_files(path, [*kept, *lines], sections, working_folder or path.parent)
    return path if kept or lines else None


def outdated_by(rows: "Sequence[Subject]") -> Callable[[_Line], bool]:
    """Return a test for failures of earlier runs that a run of ``rows`` replaces.

    Those are failures of the same image or session, and those of no subject.
    """
    images = {path for row in rows for path in row.paths.values()}
    sessions = {(row.participant_id, row.session_id) for row in rows}
    sessions |= {(participant, None) for participant, _ in sessions}

    def is_outdated(line: _Line) -> bool:
        # The folder comes last, and counts: its file may be misnamed.
        *folders, name = re.split(r"[\\/]", line.file)
        parts = [*re.split(r"[_.]", name), *folders, name]
        labels = [part for part in parts if re.fullmatch(r"ses-[^.]+", part)]
        session = (line.participant_id, labels[-1] if labels else None)
        return not line.participant_id or line.file in images or session in sessions

    return is_outdated


def merge_failures(sources: Iterable[Path], path: Path) -> int:
    """Join tables of failures, of which some may not exist; return their number."""
    lines = [line for source in sources for line in _read_failures(source)]
    unique = list(dict.fromkeys(lines))
    with _locked(path):
        _replace_files(path, unique, [], path.parent)
    return len(unique)


def count_failures(path: str | os.PathLike[str]) -> int:
    """Count the subjects in a table of failures; none if there is no such file."""
    return len(_read_failures(Path(path)))


def _format_tracebacks(failures: Sequence["Outcome[Any]"]) -> list[str]:
    """Return a section per failure that was raised, the first thousand."""
    sections = []
    raised = [
        failure
        for failure in failures
        if failure.error is not None
        and (failure.error.__traceback__ or hasattr(failure.error, "__notes__"))
    ]
    for failure in raised[:_MAX_TRACEBACKS]:
        text = "".join(traceback.format_exception(failure.error))
        heading = _Line.of(failure).heading
        sections.append(f"{heading}\n\n{text[-_MAX_TRACEBACK_LENGTH:]}")
    n_left_out = len(raised) - _MAX_TRACEBACKS
    if n_left_out > 0:
        sections.append(f"{n_left_out} more failures are in the table only.\n")
    return sections


def _read_failures(path: Path) -> list[_Line]:
    if not path.is_file():
        return []
    rows = [cells for _, cells in read_rows(path, "\t", errors="replace")]
    return [_Line(*cells) for cells in rows[1:] if len(cells) == len(_Line._fields)]


def _read_sections(path: Path, lines: Sequence[_Line]) -> list[str]:
    """Return the tracebacks that earlier runs wrote of failures still listed."""
    if not lines or not path.is_file():
        return []
    headings = {line.heading for line in lines}
    sections = path.read_text(encoding="utf-8", errors="replace").split(_SEPARATOR)
    return [text for text in sections if text.partition("\n")[0] in headings]


def _replace_files(
    path: Path, lines: Sequence[_Line], sections: Sequence[str], folder: Path
) -> None:
    """Write the table and its tracebacks, or remove those that would be empty."""
    if sections:
        with _replacing(crash_path(path), folder) as file:
            file.write(_SEPARATOR.join(sections))
    else:
        crash_path(path).unlink(missing_ok=True)
    if lines:
        with _replacing(path, folder) as file:
            write_rows(file, [_Line._fields, *lines], "\t")
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from a file while it is read and written."""
    folder = path.with_name(f".{path.name}.lock")
    while True:
        try:
            lock = lock_folder(folder)
            break
        except FolderBusyError:
            time.sleep(0.01)
        except TableError:  # some network file systems have no locks
            yield
            return
    try:
        yield
    finally:
        release_folder(folder, lock)


@contextmanager
def _replacing(path: Path, folder: Path) -> Iterator[TextIO]:
    """Open a file in ``folder`` that replaces ``path`` once it is whole."""
    complete = folder / f".{path.name}.new"
    try:
        with (
            atomic_write(complete) as partial,
            # File names need not be valid text.
            partial.open(
                "w", newline="", encoding="utf-8", errors="backslashreplace"
            ) as file,
        ):
            yield file
        complete.replace(path)
    except OSError as error:
        error.filename = os.fspath(path)  # the name that the user knows
        raise
