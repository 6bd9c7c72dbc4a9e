"""Subjects that could not be embedded, and why: files beside the output."""

import csv
import os
import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self, TextIO

from brainfeat.exceptions import TableError
from brainfeat.io.atomic import atomic_write
from brainfeat.io.delimited_rows import write_rows
from brainfeat.io.locks import FolderBusyError, lock_folder, release_folder

if TYPE_CHECKING:
    from brainfeat.subjects.subject import Subject

__all__ = [
    "FailedRow",
    "Tracebacks",
    "crash_path",
    "failures_path",
    "is_failures_path",
    "merge_failures",
    "one_line",
    "outdated_by",
    "write_failures",
]

_FAILURES_SUFFIX = ".failures.tsv"
_MOST_TRACEBACKS = 1000
_LONGEST_TRACEBACK = 10_000
# Between two tracebacks.
_RULE = f"\n{'=' * 72}\n\n"


class FailedRow(NamedTuple):
    """One subject that failed.

    Attributes
    ----------
    participant_id : str
        Name of the subject, ``""`` if unknown.
    file : str
        The file to look at.
    reason : str
        What is wrong with it, in one line and without its name.
    """

    participant_id: str
    file: str
    reason: str

    @classmethod
    def from_error(cls, participant_id: str, file: str, error: Exception) -> Self:
        """Describe an error.

        Parameters
        ----------
        participant_id : str
            Name of the subject.
        file : str
            The subject's main image, named unless the error names another file.
        error : Exception
            What was raised; its message starts with the file as a rule.

        Returns
        -------
        FailedRow
            The same, in one line.

        Examples
        --------
        >>> FailedRow.from_error("sub-01", "a.nii", ValueError("a.nii: cut short."))
        FailedRow(participant_id='sub-01', file='a.nii', reason='cut short.')
        """
        # Cut before it is one line: a name may have blanks or line breaks.
        reason = one_line(str(error).removeprefix(f"{file}: "))
        return cls(participant_id, file, reason or type(error).__name__)

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


def one_line(text: str) -> str:
    r"""Make a text safe to print: one line, and nothing that a terminal obeys.

    Parameters
    ----------
    text : str
        Any text, such as a file's name.

    Returns
    -------
    str
        The same for a reader.

    Examples
    --------
    >>> one_line("a\nb \x1b[2J.nii")
    'a b ?[2J.nii'
    """
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def failures_path(output: str | os.PathLike[str]) -> Path:
    """Name the table of failures that belongs to a table of embeddings.

    Parameters
    ----------
    output : path-like
        Table of embeddings, such as ``out.parquet``.

    Returns
    -------
    Path
        Its neighbour, such as ``out.failures.tsv``.
    """
    return Path(output).with_suffix(_FAILURES_SUFFIX)


def is_failures_path(path: Path) -> bool:
    """Whether a file is a table of failures by its name.

    Parameters
    ----------
    path : Path
        Any file, as from ``*.tsv``.

    Returns
    -------
    bool
        True for what `failures_path` gives.
    """
    return path.name.endswith(_FAILURES_SUFFIX)


def crash_path(path: str | os.PathLike[str]) -> Path:
    """Name the text with the tracebacks that belongs to a table of failures.

    Parameters
    ----------
    path : path-like
        Table of failures, such as ``out.failures.tsv``.

    Returns
    -------
    Path
        Its neighbour, such as ``out.failures.txt``.
    """
    return Path(path).with_suffix(".txt")


class Tracebacks:
    """Where the failures of a run were raised, as a text for whoever mends it.

    The first thousand are kept: what fails more often than that fails alike.
    """

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._n_left_out = 0

    def add(self, failure: FailedRow, error: BaseException) -> None:
        """Keep the traceback of an error.

        Parameters
        ----------
        failure : FailedRow
            The subject that failed by it.
        error : BaseException
            What was raised.
        """
        if len(self._texts) >= _MOST_TRACEBACKS:
            self._n_left_out += 1
            return
        text = "".join(traceback.format_exception(error))
        self._texts.append(f"{_heading(failure)}\n\n{text[-_LONGEST_TRACEBACK:]}")

    @property
    def sections(self) -> list[str]:
        """A text a failure, which starts with a line that names it."""
        more = f"{self._n_left_out} more failures are in the table only.\n"
        return [*self._texts, *([more] if self._n_left_out else [])]


def _heading(failure: FailedRow) -> str:
    return f"{one_line(failure.participant_id)}  {one_line(str(failure))}"


def write_failures(
    path: str | os.PathLike[str],
    failures: Sequence[FailedRow],
    tracebacks: Tracebacks | None = None,
    *,
    working_folder: Path | None = None,
    is_outdated: Callable[[FailedRow], bool] = lambda _: True,
) -> Path | None:
    """Write the failures of a run in place of those of earlier ones.

    Several processes may write to one file: each waits for the others.

    Parameters
    ----------
    path : path-like
        File to write, with tabs between its columns.
    failures : sequence of FailedRow
        What failed; may be empty.
    tracebacks : Tracebacks, optional
        Where it was raised, written to a text beside the table, after those of
        failures of earlier runs that are kept.
    working_folder : Path, optional
        Where files lie until they are whole, on the same disk; the folder of
        ``path`` by default.
    is_outdated : callable, optional
        Says of a failure of an earlier run whether it is dropped; all are by default.

    Returns
    -------
    Path or None
        The file, None if it would list no failure.
    """
    path = Path(path)
    folder = working_folder or path.parent
    again = {(failure.participant_id, failure.file) for failure in failures}
    with _alone(path):
        kept = [
            failure
            for failure in _read_failures(path)
            if not is_outdated(failure)
            and (failure.participant_id, failure.file) not in again
        ]
        listed = [*kept, *failures]
        sections = _read_sections(crash_path(path), kept)
        sections += tracebacks.sections if tracebacks else []
        if sections:
            with _placed(crash_path(path), folder) as file:
                file.write(_RULE.join(sections))
        else:
            crash_path(path).unlink(missing_ok=True)
        if not listed:
            path.unlink(missing_ok=True)
            return None
        with _placed(path, folder) as file:
            write_rows(file, [FailedRow._fields, *listed], "\t")
    return path


def outdated_by(rows: "Sequence[Subject]") -> Callable[[FailedRow], bool]:
    """Say which failures of earlier runs a run is the answer to.

    Parameters
    ----------
    rows : sequence of Subject
        What the run was asked for.

    Returns
    -------
    callable
        True for a failure whose image or subject, in the same session, is among the
        rows, and for one of no subject: that is a matter of its command alone.
    """
    images = {image for row in rows for image in row.images.values()}
    people = {(row.participant_id, row.session_id) for row in rows}
    people |= {(participant, None) for participant, _ in people}

    def is_outdated(failure: FailedRow) -> bool:
        # The folder counts: that the name is of another session may be the failure.
        *folders, name = re.split(r"[\\/]", failure.file)
        parts = [*re.split(r"[_.]", name), *folders, name]
        sessions = [part for part in parts if re.fullmatch(r"ses-[^.]+", part)]
        visit = (failure.participant_id, sessions[-1] if sessions else None)
        return not failure.participant_id or failure.file in images or visit in people

    return is_outdated


def merge_failures(
    sources: Iterable[str | os.PathLike[str]], output: str | os.PathLike[str]
) -> int:
    """Join tables of failures.

    Parameters
    ----------
    sources : iterable of path-like
        Tables, of which some may not be there; nothing failed then.
    output : path-like
        Table to write, or to remove if nothing failed.

    Returns
    -------
    int
        Number of failures; what several tables list is one.
    """
    listed = [failure for source in sources for failure in _read_failures(Path(source))]
    failures = list(dict.fromkeys(listed))
    write_failures(output, failures)
    return len(failures)


def _read_failures(path: Path) -> list[FailedRow]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        lines = csv.reader(file, delimiter="\t")
        next(lines, None)
        n_columns = len(FailedRow._fields)
        return [FailedRow(*line) for line in lines if len(line) == n_columns]


def _read_sections(path: Path, failures: Sequence[FailedRow]) -> list[str]:
    """Give what earlier runs wrote of failures that are still listed."""
    if not failures or not path.is_file():
        return []
    headings = set(map(_heading, failures))
    sections = path.read_text(encoding="utf-8", errors="replace").split(_RULE)
    return [text for text in sections if text.partition("\n")[0] in headings]


@contextmanager
def _alone(path: Path) -> Iterator[None]:
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
def _placed(path: Path, folder: Path) -> Iterator[TextIO]:
    """Open a file in one folder that is moved to another once it is whole.

    Raises
    ------
    OSError
        If it cannot be written; named as it would be.
    """
    whole = folder / f".{path.name}.new"
    try:
        with (
            atomic_write(whole) as partial,
            # A name on a disk need not be text.
            partial.open(
                "w", newline="", encoding="utf-8", errors="backslashreplace"
            ) as file,
        ):
            yield file
        whole.replace(path)
    except OSError as error:
        error.filename = os.fspath(path)  # the name that the user knows
        raise
