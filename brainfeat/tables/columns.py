"""Columns of embedding tables: text or numbers, and the order of the features."""

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from brainfeat.exceptions import TableError
from brainfeat.preprocessing.quality import Quality
from brainfeat.subjects.subject import (
    ADDED_COLUMNS,
    QUALITY_COLUMNS,
    join_modalities,
    own_columns,
)

__all__ = [
    "ROWS_PER_BLOCK",
    "TextColumns",
    "complete_columns",
    "feature_names",
    "is_feature",
    "order_features",
    "quality_texts",
    "stack_blocks",
    "to_texts",
    "to_typed_table",
]

# None is a missing value.
TextColumns = Mapping[str, Sequence[str | None]]

# Many small row groups of Parquet read several times slower than a few large ones.
ROWS_PER_BLOCK = 8192
# A participant called 01 or 1234 is a name.
_FLOAT_COLUMNS = {"qc_similarity", "qc_brain_ml"}
_TEXT_COLUMNS = {*own_columns([])} - _FLOAT_COLUMNS
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,18})")
# Without point and exponent, at most the 15 digits that a float keeps.
_NUMBER = re.compile(
    r"-?(0|[1-9]\d{0,14}|(0|[1-9]\d*)(\.\d+)?[eE][-+]?\d+|(0|[1-9]\d*)\.\d+)"
)


def feature_names(provenance: Mapping[str, Any]) -> list[str]:
    """Return the names of the feature columns: ``emb_000`` and so on by default."""
    numbered = (f"emb_{index:03d}" for index in range(int(provenance["n_features"])))
    return list(provenance.get("feature_names") or numbered)


def is_feature(name: str) -> bool:
    """Whether a column belongs to the embedding."""
    return name.startswith("emb_")


def order_features(
    path: Path, columns: Iterable[str], provenance: Mapping[str, Any] | None
) -> list[str]:
    """Return the feature columns of a table in the order they were written in.

    Other programs sort columns, and put emb_1000 before emb_101. Without provenance,
    the numbers count. Raises TableError if features were lost or added.
    """
    names = list(filter(is_feature, columns))
    if not names:
        return []
    if provenance is None or "n_features" not in provenance:
        is_numbered = all(name.removeprefix("emb_").isdecimal() for name in names)
        return sorted(names, key=lambda n: (len(n), n)) if is_numbered else names
    expected = feature_names(provenance)
    if sorted(names) != sorted(expected):
        raise TableError(
            f"{path}: expected the {len(expected)} columns {expected[0]} to "
            f"{expected[-1]} that it was written with, got {len(names)} columns emb_*."
        )
    return expected


def complete_columns(
    columns: TextColumns, modalities: Sequence[str]
) -> dict[str, Sequence[str | None]]:
    """Return the columns of a table, with those that earlier versions did not write."""
    n_rows = len(next(iter(columns.values()), []))
    images = {name: columns.get(name, [None] * n_rows) for name in modalities}
    rows = zip(*images.values(), strict=True)
    present = (dict(zip(images, row, strict=True)) for row in rows)
    added: dict[str, Sequence[str | None]] = {
        **dict.fromkeys(ADDED_COLUMNS, [None] * n_rows),
        "modalities": [join_modalities(row, modalities) for row in present],
    }
    completed: dict[str, Sequence[str | None]] = {}
    for name, values in columns.items():
        if name == "input_sha256":
            completed |= {n: v for n, v in added.items() if n not in columns}
        completed[name] = values
    if "qc_doubt" in completed:
        completed["qc_doubt"] = _fill_doubts(completed)
    return completed


def quality_texts(quality: Quality | None) -> dict[str, str | None]:
    """Return the columns of a row about its quality; None of what is not known."""
    if quality is None:
        return dict.fromkeys(QUALITY_COLUMNS)
    is_known = not math.isnan(quality.similarity)
    similarity = str(round(quality.similarity, 3)) if is_known else None
    texts = (similarity, str(round(quality.brain_ml, 1)), quality.doubt)
    return dict(zip(QUALITY_COLUMNS, texts, strict=True))


def to_typed_table(columns: TextColumns) -> pa.Table:
    """Convert texts to int64 or float64 in columns where all of them are numbers."""
    arrays = {}
    for name, values in columns.items():
        is_text = name in _TEXT_COLUMNS
        arrays[name] = pa.array(values, pa.string()) if is_text else _to_typed(values)
        if name in _FLOAT_COLUMNS and not any(map(_is_word, values)):
            arrays[name] = arrays[name].cast(pa.float64())
    return pa.table(arrays)


def to_texts(kind: pa.DataType, values: Sequence[Any]) -> list[str | None]:
    """Convert a typed column back to the texts it was made from."""
    if not pa.types.is_floating(kind):
        return [None if value is None else str(value) for value in values]
    # 71 beside 70.5 was written "71"; in a column of integers only, it was "71.0".
    present = [value for value in values if value is not None]
    has_fractions = any(not value.is_integer() for value in present)

    def to_text(value: float) -> str:
        return f"{value:.0f}" if has_fractions and value.is_integer() else str(value)

    return [None if value is None else to_text(value) for value in values]


def stack_blocks(
    vectors: Iterable[NDArray[np.float32]], n_features: int
) -> Iterator[NDArray[np.float32]]:
    """Stack vectors to blocks of shape (at most `ROWS_PER_BLOCK`, n_features)."""
    iterator = iter(vectors)
    while rows := list(itertools.islice(iterator, ROWS_PER_BLOCK)):
        yield np.stack(rows).reshape(len(rows), n_features)


def _fill_doubts(columns: TextColumns) -> list[str | None]:
    """Tell rows without doubt, "", from rows of which nothing is known, None."""
    doubts = columns["qc_doubt"]
    if "qc_brain_ml" not in columns:  # another program's table
        return list(doubts)
    rows = zip(doubts, columns["qc_brain_ml"], strict=True)
    # Delimited tables write both as an empty cell.
    return [doubt if ml is None else doubt or "" for doubt, ml in rows]


def _is_word(text: str | None) -> bool:
    return text is not None and _NUMBER.fullmatch(text) is None


def _to_typed(values: Sequence[str | None]) -> pa.Array:
    # "01" is a name: a column is numeric only if all its values are.
    present = [value for value in values if value is not None]
    if present and all(map(_INTEGER.fullmatch, present)):
        # Longer ones are names too; pandas converts integers with gaps to floats.
        longest = 2**53 if None in values else 2**63 - 1
        integers = [None if value is None else int(value) for value in values]
        if all(abs(integer or 0) <= longest for integer in integers):
            return pa.array(integers, pa.int64())
    if present and all(map(_NUMBER.fullmatch, present)):
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    return pa.array(values, pa.string())
