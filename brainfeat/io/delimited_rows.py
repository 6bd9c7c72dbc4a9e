"""Rows of CSV and TSV files, so that what is read is what was written."""

__all__ = ["read_value", "write_rows"]

import csv
from collections.abc import Iterable
from typing import TextIO

# As pandas reads them.
_MISSING = {"", "n/a", "na", "nan", "none", "null", "#n/a"}


def write_rows(file: TextIO, rows: Iterable[Iterable[object]], delimiter: str) -> None:
    """Write rows, each on a line that ends in a line feed.

    Parameters
    ----------
    file : text file
        Opened with ``newline=""``.
    rows : iterable of iterables
        Values of each row; drawn one by one.
    delimiter : str
        What lies between the values.

    Examples
    --------
    >>> import sys
    >>> write_rows(sys.stdout, [("participant_id", "age"), ("sub-01", 71)], ",")
    participant_id,age
    sub-01,71
    """
    csv.writer(_LineFeeds(file), delimiter=delimiter).writerows(rows)


def read_value(text: str) -> str | None:
    """Read a value of a table that others wrote.

    Parameters
    ----------
    text : str
        What lies between two delimiters.

    Returns
    -------
    str or None
        Without blanks around it; None for what BIDS, pandas or R write where there is
        no value.

    Examples
    --------
    >>> read_value(" 71 "), read_value("n/a"), read_value("NA")
    ('71', None, None)
    """
    stripped = text.strip()
    return None if stripped.lower() in _MISSING else stripped


class _LineFeeds:
    """Ends lines in a line feed alone.

    The writer ends them in both characters: until Python 3.13 it quotes a value with
    one of them, such as the folder of a list from Windows, only if its lines do.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, line: str) -> None:
        self._file.write(line.removesuffix("\r\n") + "\n")
