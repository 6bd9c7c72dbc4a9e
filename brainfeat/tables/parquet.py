"""Embedding tables as Parquet, with the provenance in the metadata."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from brainfeat.exceptions import TableError, brief_reason
from brainfeat.tables.columns import (
    ROWS_PER_BLOCK,
    TextColumns,
    feature_names,
    is_feature,
    order_features,
    stack_blocks,
    to_texts,
    to_typed_table,
)

__all__ = ["ParquetFormat"]

_METADATA_KEY = b"brainfeat"


class ParquetFormat:
    """Parquet with a float32 column per feature.

    Reading raises TableError if the file cannot be read.
    """

    def write(
        self,
        path: Path,
        columns: TextColumns,
        vectors: Iterable[NDArray[np.float32]],
        provenance: Mapping[str, Any],
    ) -> None:
        """Write a table, a block of rows at a time.

        Columns in which all texts are numbers become numbers. ``vectors`` are read
        once; ``provenance`` holds ``n_features``.
        """
        texts = to_typed_table(columns)
        features = feature_names(provenance)
        schema = pa.schema(
            [*texts.schema, *(pa.field(name, pa.float32()) for name in features)],
            metadata={_METADATA_KEY: json.dumps(dict(provenance)).encode()},
        )
        writer = pq.ParquetWriter(
            path,
            schema,
            # A single value gets no smaller, and is slower to read.
            compression="zstd" if texts.num_rows > 1 else "none",
            use_dictionary=texts.column_names,
            use_byte_stream_split=features,
            write_statistics=texts.column_names,
        )
        start = 0
        with writer:
            for block in stack_blocks(vectors, int(provenance["n_features"])):
                piece = texts.slice(start, len(block)).combine_chunks()
                arrays = [*piece.columns, *map(pa.array, block.T.copy())]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
                start += len(block)

    def read_provenance(self, path: Path) -> dict[str, Any] | None:
        """Read the metadata, None if another program wrote the table."""
        return _provenance_in(_open(path).schema_arrow)

    def read_columns(self, path: Path) -> pa.Table:
        """Read everything but the features, as int64, float64 or string."""
        file = _open(path)
        names = [name for name in file.schema_arrow.names if not is_feature(name)]
        return file.read(columns=names)

    def read_texts(self, path: Path) -> dict[str, list[str | None]]:
        """Read the texts that were written."""
        table = self.read_columns(path)
        return {
            name: to_texts(table[name].type, table[name].to_pylist())
            for name in table.column_names
        }

    def iterate_vectors(self, path: Path) -> Iterator[NDArray[np.float32]]:
        """Yield blocks of shape (n_rows, n_features)."""
        file = _open(path)
        schema = file.schema_arrow
        features = order_features(path, schema.names, _provenance_in(schema))
        if not features:
            return
        # Threads start slower than a file of one row is read, and do not speed up
        # large ones.
        batches = file.iter_batches(ROWS_PER_BLOCK, columns=features, use_threads=False)
        for batch in batches:
            columns = batch.select(features).columns  # they come as in the file
            # Other programs may have added rows, or written float64.
            if any(column.null_count for column in columns):
                raise TableError(
                    f"{path}: expected an embedding in each row, got rows without."
                )
            block = np.stack([column.to_numpy() for column in columns]).T
            yield block.astype(np.float32, copy=False)


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError(
            f"{path}: not a readable Parquet file ({brief_reason(error)})."
        ) from error


def _provenance_in(schema: pa.Schema) -> dict[str, Any] | None:
    text = (schema.metadata or {}).get(_METADATA_KEY)
    return None if text is None else dict(json.loads(text))
