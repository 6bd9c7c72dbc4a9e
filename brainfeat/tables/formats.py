"""Formats of embedding tables: Parquet, CSV and TSV, written in constant memory."""

import os
from pathlib import Path

from brainfeat.exceptions import TableError
from brainfeat.tables.delimited import DelimitedFormat
from brainfeat.tables.parquet import ParquetFormat

__all__ = ["TableFormat", "find_format"]


# Text columns and a float32 vector per row; both have the same methods.
TableFormat = ParquetFormat | DelimitedFormat

_FORMATS: dict[str, TableFormat] = {
    ".parquet": ParquetFormat(),
    ".csv": DelimitedFormat(delimiter=",", missing=""),
    ".tsv": DelimitedFormat(delimiter="\t", missing="n/a"),  # as in BIDS
}


def find_format(path: str | os.PathLike[str]) -> TableFormat:
    """Choose the format by the suffix ``.parquet``, ``.csv`` or ``.tsv``."""
    suffix = Path(path).suffix
    if suffix not in _FORMATS:
        raise TableError(
            f"{os.fspath(path)}: expected a name that ends in .parquet, .csv or .tsv."
        )
    return _FORMATS[suffix]
