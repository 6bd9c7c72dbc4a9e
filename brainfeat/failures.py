"""Subjects that could not be embedded, and why: a small table beside the output."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

from brainfeat.atomic import atomic_write

__all__ = ["FailedRow", "failures_path", "write_failures"]


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
        text = " ".join(str(error).split()) or type(error).__name__
        return cls(participant_id, file, text.removeprefix(f"{file}: "))

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


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
    return Path(output).with_suffix(".failures.tsv")


def write_failures(
    path: str | os.PathLike[str], failures: Sequence[FailedRow]
) -> Path | None:
    """Write the failures of a run, or remove those of an earlier one.

    Parameters
    ----------
    path : path-like
        File to write, with tabs between its columns.
    failures : sequence of FailedRow
        What failed; may be empty.

    Returns
    -------
    Path or None
        The file that was written, None if there was no failure.
    """
    path = Path(path)
    if not failures:
        path.unlink(missing_ok=True)
        return None
    with (
        atomic_write(path) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(FailedRow._fields)
        writer.writerows(failures)
    return path
