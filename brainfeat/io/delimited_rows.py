"""CSV and TSV files: the one reader and writer, and the rules of missing values."""

__all__ = [
    "SPREADSHEET_SUFFIXES",
    "DelimitedError",
    "check_text",
    "read_records",
    "read_rows",
    "read_value",
    "write_records",
    "write_rows",
]

import csv
from collections import Counter
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from itertools import zip_longest
from pathlib import Path
from typing import Any, TextIO

from brainfeat.io.atomic import atomic_write
from brainfeat.io.file_kinds import describe_stranger, first_bytes

# Tables that are no text, refused with the mend.
SPREADSHEET_SUFFIXES = (".xlsx", ".xls", ".ods")

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_MEND = "save the table as UTF-8 CSV"
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
# Those of pandas.
_MISSING = {"", "n/a", "na", "nan", "none", "null", "#n/a"}


class DelimitedError(ValueError):
    """A file is no table, or is damaged; the message does not name it."""


def read_rows(
    path: Path, delimiter: str, *, errors: str = "strict", strict: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the cells of each row, the header first.

    ``errors`` is what to do with bytes that are not UTF-8. If ``strict``, a quote that
    is never closed raises `DelimitedError` instead of including the rest of the file,
    and blanks after a delimiter are dropped.
    """
    check_text(path)
    with path.open(newline="", encoding="utf-8-sig", errors=errors) as file:
        rows = csv.reader(
            file, delimiter=delimiter, strict=strict, skipinitialspace=strict
        )
        try:
            for row in rows:
                yield rows.line_num, row
        except UnicodeDecodeError as error:
            raise DelimitedError(f"{error}; {_MEND}") from error
        except csv.Error as error:
            raise DelimitedError(str(error)) from error


def check_text(path: Path) -> None:
    """Raise DelimitedError, with the mend, if a file is no text by its first bytes."""
    start = first_bytes(path)
    stranger = describe_stranger(start)
    if start.startswith(_WORKBOOKS):
        stranger = f"a spreadsheet; {_MEND}"
    elif start.startswith(_UTF16_MARKS) or start.count(0) > len(start) / 4:
        stranger = f"text in UTF-16; {_MEND}"
    elif b"\0" in start:
        stranger = f"a binary file; {_MEND}"
    if stranger is not None:
        raise DelimitedError(f"expected text, got {stranger}")


def read_value(text: str) -> str | None:
    """Strip a cell, and return None for a missing value of BIDS, pandas or R.

    >>> read_value(" 71 "), read_value("n/a"), read_value("NA")
    ('71', None, None)
    """
    stripped = text.strip()
    return None if stripped.lower() in _MISSING else stripped


def read_records(
    path: Path,
    *,
    unique: Collection[str] = (),
    convert: Callable[[str], str | None] = read_value,
) -> tuple[list[str], dict[int, dict[str, str | None]]]:
    """Read a table that a user wrote: its columns, and values by line and column.

    Empty lines and columns without a name are dropped; missing values are None. Raises
    `DelimitedError` if a column in ``unique`` occurs twice, or a row is longer than the
    header.
    """
    rows = read_rows(path, _find_delimiter(path), strict=True)
    names = [name.strip() for name in next(rows, (0, []))[1]]
    for name, n_columns in Counter(filter(None, names)).items():
        if n_columns > 1 and name in unique:
            raise DelimitedError(f"{n_columns} columns are named {name}")
    records = {}
    for number, cells in rows:
        if any(cells[len(names) :]):
            raise DelimitedError(
                f"line {number}: expected {len(names)} cells, got {len(cells)}"
            )
        if any(cells):
            values = zip_longest(names, map(convert, cells[: len(names)]))
            records[number] = {name: value for name, value in values if name}
    return list(filter(None, names)), records


def write_rows(file: TextIO, rows: Iterable[Iterable[object]], delimiter: str) -> None:
    """Write rows that end in a line feed to a file opened with ``newline=""``.

    >>> import sys
    >>> write_rows(sys.stdout, [("participant_id", "age"), ("sub-01", 71)], ",")
    participant_id,age
    sub-01,71
    """
    csv.writer(_LineFeeds(file), delimiter=delimiter).writerows(rows)


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write records as a CSV file, whole or not at all, with the columns of all.

    Floats have six digits; None, and what a record lacks, is an empty cell.
    """
    columns = [*dict.fromkeys(name for record in records for name in record)]
    lines = ([_to_cell(record.get(name)) for name in columns] for record in records)
    with (
        atomic_write(path) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        write_rows(file, [columns, *lines], ",")


def _to_cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else value


def _find_delimiter(path: Path) -> str:
    delimiter = _DELIMITERS.get(path.suffix.lower(), "\t")
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = file.readline()
    # Spreadsheets write semicolons where the comma is the decimal point.
    return ";" if delimiter not in first and ";" in first else delimiter


class _LineFeeds:
    r"""Replaces "\r\n" at the end of lines by "\n".

    With lineterminator="\n", the writer of Python < 3.13 does not quote a value that
    contains "\r".
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, line: str) -> None:
        self._file.write(line.removesuffix("\r\n") + "\n")
