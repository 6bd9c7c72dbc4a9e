"""Embedding tables on disk: Parquet, CSV and TSV, written in constant memory."""

import csv
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from brainfeat.exceptions import TableError, brief_reason
from brainfeat.io.delimited_rows import write_rows
from brainfeat.io.json_files import read_json_object

__all__ = ["Layout", "TableFormat", "TextColumns", "find_format", "sidecar_path"]

Layout = Literal["wide", "list"]

TextColumns = Mapping[str, Sequence[str | None]]

_METADATA_KEY = b"brainfeat"
_LISTS = "embedding"
# Many small row groups read several times slower than a few large ones.
_ROWS_PER_GROUP = 8192
# A participant called 01 or 1234 is a name all the same.
_TEXT_COLUMNS = {"participant_id", "session_id", "image", "input_sha256"}
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,18})")
# One without point and exponent has at most the 15 digits that a float keeps.
_NUMBER = re.compile(
    r"-?(0|[1-9]\d{0,14}|(0|[1-9]\d*)(\.\d+)?[eE][-+]?\d+|(0|[1-9]\d*)\.\d+)"
)


class TableFormat(Protocol):
    """How rows of text columns and a float32 vector lie in one file."""

    def write(
        self,
        path: Path,
        columns: TextColumns,
        vectors: Iterable[NDArray[np.float32]],
        provenance: Mapping[str, Any],
    ) -> None:
        """Write a table.

        Parameters
        ----------
        path : Path
            File to write.
        columns : mapping of str to sequence of str or None
            Columns before the embedding; None is missing. A column whose texts
            are all numbers is stored as numbers.
        vectors : iterable of ndarray of shape (n_features,)
            The embedding of each row; read once, some rows at a time.
        provenance : mapping of str to JSON values
            Where the embeddings come from; holds ``n_features``.
        """

    def read_provenance(self, path: Path) -> dict[str, Any] | None:
        """Say where a table comes from.

        Parameters
        ----------
        path : Path
            The table.

        Returns
        -------
        dict or None
            What it was written with; None if it does not tell.

        Raises
        ------
        TableError
            If the file cannot be read.
        """

    def read_columns(self, path: Path) -> pa.Table:
        """Read everything but the embeddings.

        Parameters
        ----------
        path : Path
            The table.

        Returns
        -------
        pyarrow.Table
            Columns of int64, float64 or string.

        Raises
        ------
        TableError
            If the file cannot be read.
        """

    def read_texts(self, path: Path) -> dict[str, list[str | None]]:
        """Read the same as the texts that it was made from.

        Parameters
        ----------
        path : Path
            The table.

        Returns
        -------
        dict of str to list of str or None
            What `write` takes, to make the same columns again.

        Raises
        ------
        TableError
            If the file cannot be read.
        """

    def iterate_vectors(self, path: Path) -> Iterator[NDArray[np.float32]]:
        """Read the embeddings, a piece at a time.

        Parameters
        ----------
        path : Path
            The table.

        Yields
        ------
        ndarray of float32 of shape (n_rows, n_features)
            Rows in the table's order.

        Raises
        ------
        TableError
            If the file cannot be read.
        """


def find_format(path: str | os.PathLike[str], layout: Layout = "wide") -> TableFormat:
    """Choose the format by the file's suffix.

    Parameters
    ----------
    path : path-like
        File that ends in ``.parquet``, ``.csv`` or ``.tsv``.
    layout : {"wide", "list"}
        A column a feature, or one column of lists, in which only Parquet writes;
        what is read may have either.

    Returns
    -------
    TableFormat
        How to read and write it.

    Raises
    ------
    TableError
        If the suffix is another one, or its format has no lists.
    """
    suffix = Path(path).suffix
    if layout == "list":
        if suffix != ".parquet":
            raise TableError(
                f"{os.fspath(path)}: expected a name that ends in .parquet for "
                "lists, which text tables do not have."
            )
        return _ParquetFormat(has_lists=True)
    if suffix not in _FORMATS:
        raise TableError(
            f"{os.fspath(path)}: expected a name that ends in .parquet, .csv or .tsv."
        )
    return _FORMATS[suffix]


def sidecar_path(path: str | os.PathLike[str]) -> Path:
    """Name the JSON file beside a table that says where the table comes from.

    Parameters
    ----------
    path : path-like
        The table.

    Returns
    -------
    Path
        The same name, ending in ``.json``.
    """
    return Path(path).with_suffix(".json")


@dataclass(frozen=True)
class _ParquetFormat:
    """Parquet, with provenance in the metadata.

    Wide, it has a float32 column a feature; else one column of lists of fixed size,
    and no other column of that name.
    """

    has_lists: bool = False

    def write(
        self,
        path: Path,
        columns: TextColumns,
        vectors: Iterable[NDArray[np.float32]],
        provenance: Mapping[str, Any],
    ) -> None:
        if self.has_lists:
            columns = {name: columns[name] for name in columns if name != _LISTS}
        texts = _typed_table(columns)
        n_features = int(provenance["n_features"])
        if self.has_lists:
            features = [pa.field(_LISTS, pa.list_(pa.float32(), n_features))]
            leaves = [f"{_LISTS}.list.element"]
        else:
            leaves = _feature_names(provenance)
            features = [pa.field(name, pa.float32()) for name in leaves]
        schema = pa.schema(
            [*texts.schema, *features],
            metadata={_METADATA_KEY: json.dumps(dict(provenance)).encode()},
        )
        writer = pq.ParquetWriter(
            path,
            schema,
            # A value alone gets no smaller, and is read the slower for it.
            compression="zstd" if texts.num_rows > 1 else "none",
            use_dictionary=texts.column_names,
            use_byte_stream_split=leaves,
            write_statistics=texts.column_names,
        )
        start = 0
        with writer:
            for block in _blocks(vectors, n_features):
                piece = texts.slice(start, len(block)).combine_chunks()
                arrays = [*piece.columns, *self._arrays(block)]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
                start += len(block)

    def read_provenance(self, path: Path) -> dict[str, Any] | None:
        return _provenance_in(_open_parquet(path).schema_arrow)

    def read_columns(self, path: Path) -> pa.Table:
        file = _open_parquet(path)
        schema = file.schema_arrow
        lists = _list_column(schema)
        names = [name for name in schema.names if not _is_feature(name)]
        return file.read(columns=[name for name in names if name != lists])

    def read_texts(self, path: Path) -> dict[str, list[str | None]]:
        table = self.read_columns(path)
        return {
            name: _texts(table[name].type, table[name].to_pylist())
            for name in table.column_names
        }

    def iterate_vectors(self, path: Path) -> Iterator[NDArray[np.float32]]:
        file = _open_parquet(path)
        schema = file.schema_arrow
        lists = _list_column(schema)
        if lists is None:
            features = _order_features(path, schema.names, _provenance_in(schema))
        else:
            features = [lists]
        if not features:
            return
        # Threads take longer to start than a file of one row takes to read, and gain
        # nothing on large ones.
        for batch in file.iter_batches(
            _ROWS_PER_GROUP, columns=features, use_threads=False
        ):
            columns = batch.select(features).columns  # they come as in the file
            # Other programs may have added rows, or written float64.
            if any(column.null_count for column in columns):
                raise TableError(
                    f"{path}: expected an embedding in each row, got rows without."
                )
            if lists is None:
                block = np.stack([column.to_numpy() for column in columns]).T
            else:
                values = columns[0].flatten().to_numpy(zero_copy_only=False)
                block = values.reshape(batch.num_rows, -1)
            yield block.astype(np.float32, copy=False)

    def _arrays(self, block: NDArray[np.float32]) -> list[pa.Array]:
        if not self.has_lists:
            return list(map(pa.array, block.T.copy()))
        values = pa.array(block.ravel())
        return [pa.FixedSizeListArray.from_arrays(values, block.shape[1])]


@dataclass(frozen=True)
class _DelimitedFormat:
    """CSV or TSV; the provenance lies in a JSON file beside the table."""

    delimiter: str
    missing: str

    def write(
        self,
        path: Path,
        columns: TextColumns,
        vectors: Iterable[NDArray[np.float32]],
        provenance: Mapping[str, Any],
    ) -> None:
        header = [*columns, *_feature_names(provenance)]
        rows = zip(zip(*columns.values(), strict=True), vectors, strict=True)
        # numpy writes the shortest digits that give the same float32.
        lines = ([*map(self._cell, texts), *v.astype(str)] for texts, v in rows)
        with path.open("w", newline="", encoding="utf-8") as file:
            write_rows(file, itertools.chain([header], lines), self.delimiter)

    def read_provenance(self, path: Path) -> dict[str, Any] | None:
        return read_json_object(sidecar_path(path))

    def read_columns(self, path: Path) -> pa.Table:
        return _typed_table(self.read_texts(path))

    def read_texts(self, path: Path) -> dict[str, list[str | None]]:
        rows = self._rows(path)
        header = next(rows)
        places = [i for i, name in enumerate(header) if not _is_feature(name)]
        texts = [[self._text(row[i]) for i in places] for row in rows]
        columns = map(list, zip(*texts, strict=True)) if texts else map(list, ())
        names = [header[i] for i in places]
        return (
            dict(zip(names, columns, strict=True)) if texts else {n: [] for n in names}
        )

    def iterate_vectors(self, path: Path) -> Iterator[NDArray[np.float32]]:
        rows = self._rows(path)
        header = next(rows)
        features = _order_features(path, header, self.read_provenance(path))
        place = {name: i for i, name in enumerate(header)}
        places = [place[name] for name in features]
        vectors = (np.array([row[i] for i in places], np.float32) for row in rows)
        try:
            yield from _blocks(vectors, len(places))
        except ValueError as error:
            raise TableError(f"{path}: expected numbers as emb_* ({error}).") from error

    def _rows(self, path: Path) -> Iterator[list[str]]:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=self.delimiter)
            try:
                header = next(reader, [])
                yield header
                for row in reader:
                    if len(row) != len(header):
                        raise TableError(
                            f"{path}: line {reader.line_num}: expected "
                            f"{len(header)} values, got {len(row)}."
                        )
                    yield row
            except (csv.Error, UnicodeDecodeError) as error:
                raise TableError(f"{path}: not a readable table ({error}).") from error

    def _cell(self, text: str | None) -> str:
        return self.missing if text is None else text

    def _text(self, value: str) -> str | None:
        return None if value in {"", self.missing} else value


_FORMATS: dict[str, TableFormat] = {
    ".parquet": _ParquetFormat(),
    ".csv": _DelimitedFormat(delimiter=",", missing=""),
    ".tsv": _DelimitedFormat(delimiter="\t", missing="n/a"),  # as in BIDS
}


def _feature_names(provenance: Mapping[str, Any]) -> list[str]:
    numbered = (f"emb_{index:03d}" for index in range(int(provenance["n_features"])))
    return list(provenance.get("feature_names") or numbered)


def _is_feature(name: str) -> bool:
    return name.startswith("emb_")


def _provenance_in(schema: pa.Schema) -> dict[str, Any] | None:
    text = (schema.metadata or {}).get(_METADATA_KEY)
    return None if text is None else dict(json.loads(text))


def _order_features(
    path: Path, columns: Iterable[str], provenance: Mapping[str, Any] | None
) -> list[str]:
    """Name the features of a table in the order that they were written in.

    Other programs sort columns, and put emb_1000 before emb_101. Some leave out where
    the table comes from, too: the numbers count then.

    Raises
    ------
    TableError
        If some are not there, or others are.
    """
    found = list(filter(_is_feature, columns))
    if not found:
        return []
    if provenance is None or "n_features" not in provenance:
        is_numbered = all(name.removeprefix("emb_").isdecimal() for name in found)
        return sorted(found, key=lambda n: (len(n), n)) if is_numbered else found
    expected = _feature_names(provenance)
    if sorted(found) != sorted(expected):
        raise TableError(
            f"{path}: expected the {len(expected)} columns {expected[0]} to "
            f"{expected[-1]} that it was written with, got {len(found)} columns emb_*."
        )
    return expected


def _list_column(schema: pa.Schema) -> str | None:
    # A manifest may have a column of that name too, but not of lists.
    names = [field.name for field in schema if pa.types.is_fixed_size_list(field.type)]
    return _LISTS if _LISTS in names else None


def _texts(kind: pa.DataType, values: Sequence[Any]) -> list[str | None]:
    if not pa.types.is_floating(kind):
        return [None if value is None else str(value) for value in values]
    # 71 beside 70.5 was an integer; among integers only, it was written 71.0.
    present = [value for value in values if value is not None]
    has_fractions = any(not value.is_integer() for value in present)
    return [
        None
        if value is None
        else f"{value:.0f}"
        if has_fractions and value.is_integer()
        else str(value)
        for value in values
    ]


def _typed_table(columns: TextColumns) -> pa.Table:
    arrays = {}
    for name, values in columns.items():
        texts = name in _TEXT_COLUMNS
        arrays[name] = pa.array(values, pa.string()) if texts else _typed(values)
    return pa.table(arrays)


def _typed(values: Sequence[str | None]) -> pa.Array:
    # "01" is a name, not a number: a column is of numbers only if all of it is.
    present = [value for value in values if value is not None]
    if present and all(map(_INTEGER.fullmatch, present)):
        # A longer one is a name, too; pandas makes floats of integers with gaps.
        longest = 2**53 if None in values else 2**63 - 1
        integers = [None if value is None else int(value) for value in values]
        if all(abs(integer or 0) <= longest for integer in integers):
            return pa.array(integers, pa.int64())
    if present and all(map(_NUMBER.fullmatch, present)):
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    return pa.array(values, pa.string())


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError(
            f"{path}: not a readable Parquet file ({brief_reason(error)})."
        ) from error


def _blocks(
    vectors: Iterable[NDArray[np.float32]], n_features: int
) -> Iterator[NDArray[np.float32]]:
    iterator = iter(vectors)
    while rows := list(itertools.islice(iterator, _ROWS_PER_GROUP)):
        yield np.stack(rows).reshape(len(rows), n_features)
