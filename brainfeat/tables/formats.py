"""Formats of embedding tables: Parquet, CSV and TSV, written in constant memory."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from brainfeat.exceptions import TableError
from brainfeat.tables.columns import TextColumns
from brainfeat.tables.delimited import DelimitedFormat
from brainfeat.tables.parquet import ParquetFormat

__all__ = ["TableFormat", "find_format"]


class TableFormat(Protocol):
    """How one file stores text columns and a float32 vector per row.

    Reading raises TableError if the file cannot be read.
    """

    def write(
        self,
        path: Path,
        columns: TextColumns,
        vectors: Iterable[NDArray[np.float32]],
        provenance: Mapping[str, Any],
    ) -> None:
        """Write a table; columns in which all texts are numbers become numbers.

        ``vectors`` are read once, some rows at a time; ``provenance`` holds
        ``n_features``.
        """

    def read_provenance(self, path: Path) -> dict[str, Any] | None:
        """Read the provenance that the table was written with, if it has any."""

    def read_columns(self, path: Path) -> pa.Table:
        """Read all but the features as int64, float64 or string."""

    def read_texts(self, path: Path) -> dict[str, list[str | None]]:
        """Read all but the features as the texts that `write` was given."""

    def iterate_vectors(self, path: Path) -> Iterator[NDArray[np.float32]]:
        """Yield blocks of shape (n_rows, n_features) in the order of the rows."""


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
