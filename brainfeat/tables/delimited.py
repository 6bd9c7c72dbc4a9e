"""Embedding tables as CSV or TSV, with the provenance in a JSON file beside them."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from brainfeat.exceptions import TableError
from brainfeat.io.delimited_rows import DelimitedError, read_rows, write_rows
from brainfeat.io.json_files import read_json_object
from brainfeat.tables.columns import (
    TextColumns,
    feature_names,
    is_feature,
    order_features,
    stack_blocks,
    to_typed_table,
)

__all__ = ["DelimitedFormat", "read_sidecar", "sidecar_path"]

_SUFFIXES = (".parquet", ".csv", ".tsv")


def sidecar_path(table: Path) -> Path:
    """Name the JSON file of a table, which holds its provenance.

    That of ``all.csv`` is ``all.json``; it is ``all.csv.json`` if ``all.json`` is that
    of another table, such as ``all.parquet``.
    """
    own = _own_sidecar(table)
    others = (table.with_suffix(suffix) for suffix in _SUFFIXES)
    is_taken = any(
        other != table and other.exists() and not _own_sidecar(other).exists()
        for other in others
    )
    return own if is_taken or own.exists() else table.with_suffix(".json")


def read_sidecar(table: Path) -> dict[str, Any] | None:
    """Read the JSON file of a table; None if it is missing, or is no object.

    Tables of earlier versions share one, if their names differ in the suffix alone.
    """
    own = _own_sidecar(table)
    return read_json_object(own if own.exists() else table.with_suffix(".json"))


def _own_sidecar(table: Path) -> Path:
    return table.with_name(f"{table.name}.json")


@dataclass(frozen=True)
class DelimitedFormat:
    """CSV or TSV, with the methods of `ParquetFormat`."""

    delimiter: str
    missing: str

    def write(
        self,
        path: Path,
        columns: TextColumns,
        vectors: Iterable[NDArray[np.float32]],
        provenance: Mapping[str, Any],
    ) -> None:
        """Write a table, a row at a time."""
        header = [*columns, *feature_names(provenance)]
        rows = zip(zip(*columns.values(), strict=True), vectors, strict=True)
        # numpy writes the shortest digits that give the same float32.
        lines = ([*map(self._to_cell, texts), *v.astype(str)] for texts, v in rows)
        with path.open("w", newline="", encoding="utf-8") as file:
            write_rows(file, itertools.chain([header], lines), self.delimiter)

    def read_provenance(self, path: Path) -> dict[str, Any] | None:
        """Read the JSON file beside the table, None if it is missing."""
        return read_sidecar(path)

    def read_columns(self, path: Path) -> pa.Table:
        """Read everything but the features."""
        return to_typed_table(self.read_texts(path))

    def read_texts(self, path: Path) -> dict[str, list[str | None]]:
        """Read the texts that were written."""
        rows = self._rows(path)
        header = next(rows)
        columns: dict[int, list[str | None]] = {
            index: [] for index, name in enumerate(header) if not is_feature(name)
        }
        for row in rows:
            for index, values in columns.items():
                is_missing = row[index] in {"", self.missing}
                values.append(None if is_missing else row[index])
        return {header[index]: values for index, values in columns.items()}

    def iterate_vectors(self, path: Path) -> Iterator[NDArray[np.float32]]:
        """Yield blocks of shape (n_rows, n_features)."""
        rows = self._rows(path)
        header = next(rows)
        features = order_features(path, header, self.read_provenance(path))
        by_name = {name: index for index, name in enumerate(header)}
        indices = [by_name[name] for name in features]
        vectors = (np.array([row[i] for i in indices], np.float32) for row in rows)
        try:
            yield from stack_blocks(vectors, len(indices))
        except ValueError as error:
            raise TableError(f"{path}: expected numbers as emb_* ({error}).") from error

    def _rows(self, path: Path) -> Iterator[list[str]]:
        rows = read_rows(path, self.delimiter)
        try:
            _, header = next(rows, (0, []))
            yield header
            for number, row in rows:
                if len(row) != len(header):
                    raise TableError(
                        f"{path}: line {number}: expected {len(header)} values, got "
                        f"{len(row)}."
                    )
                yield row
        except DelimitedError as error:
            raise TableError(f"{path}: not a readable table ({error}).") from error

    def _to_cell(self, text: str | None) -> str:
        return self.missing if text is None else text
