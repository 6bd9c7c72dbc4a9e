"""The rows that several embedding tables have in common."""

__all__ = ["SharedRows", "find_shared_rows", "has_names", "read_features"]

from collections import Counter
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainfeat.exceptions import InputError

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Key = tuple[str, ...]  # participant, session and run; or another name of a row


class SharedRows(NamedTuple):
    """Positions of the rows that all tables have, in the order of the first table."""

    positions: dict[str, Rows]
    keys: list[Key]
    n_others: dict[str, int]  # rows of each table that another table lacks
    n_first: int  # rows of the first table

    @property
    def participants(self) -> list[str]:
        """Participant of each row."""
        return [key[0] for key in self.keys]

    def align(self, name: str, values: Any) -> list[Any]:
        """Return the value of each row; None for those that a Series does not name."""
        if has_names(values):
            return self._look_up(name, values)
        given = list(values)
        if len(given) != self.n_first:
            raise InputError(
                f"{name}: expected a Series by participant, or a value for each of "
                f"{self.n_first} rows of the first table, got {len(given)}."
            )
        first = next(iter(self.positions.values()))
        return [given[position] for position in first]

    def _look_up(self, name: str, values: "pd.Series[Any]") -> list[Any]:
        if not values.index.is_unique:
            twice = values.index[values.index.duplicated()][0]
            raise InputError(
                f"{name}: expected one value for each participant, got several of "
                f"{twice}; index it by participant and session."
            )
        n_levels = values.index.nlevels
        labels = (label if n_levels > 1 else (label,) for label in values.index)
        by_key = dict(zip(map(_clean, labels), values, strict=True))
        found = [by_key.get(key[:n_levels]) for key in self.keys]
        if all(value is None for value in found):
            raise InputError(
                f"{name}: expected an index of the participants of the tables, such as "
                f"{self.keys[0][0]}, got none of them."
            )
        return found


def find_shared_rows(tables: Mapping[str, pd.DataFrame]) -> SharedRows:
    """Join tables by participant, session and run; without these, by their index."""
    keys = {name: _find_keys(table) for name, table in tables.items()}
    if any(len(set(rows)) < len(rows) for rows in keys.values()):
        # Repeats that only the names of their files tell apart.
        keys = {name: _find_keys(table, by_file=True) for name, table in tables.items()}
    for name, rows in keys.items():
        _check_unique(name, rows)
    common = set.intersection(*(set(rows) for rows in keys.values()))
    if not common:
        shown = "; ".join(f"{name} has {_show(rows)}" for name, rows in keys.items())
        raise InputError(f"expected rows that all tables have, got none: {shown}.")
    first = next(iter(keys.values()))
    shared = [key for key in first if key in common]
    positions = {}
    for name, rows in keys.items():
        at = {key: position for position, key in enumerate(rows)}
        positions[name] = np.array([at[key] for key in shared], dtype=np.intp)
    n_others = {name: len(rows) - len(shared) for name, rows in keys.items()}
    return SharedRows(positions, shared, n_others, len(first))


def has_names(values: Any) -> bool:
    """Whether rows have names: participants, or an index that is not a mere count."""
    if isinstance(values, pd.DataFrame) and "participant_id" in values:
        return True
    is_table = isinstance(values, pd.DataFrame | pd.Series)
    return is_table and not isinstance(values.index, pd.RangeIndex)


def read_features(name: str, table: Any) -> Floats:
    """Return features (n_rows, n_features): columns ``emb_*`` if there are some."""
    values = table
    if isinstance(table, pd.DataFrame):
        named = [c for c in table.columns if "emb_" in str(c)]
        values = table[named] if named else table
    try:
        features = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: expected numeric features ({error}).") from error
    if features.ndim != 2 or not features.size:
        raise InputError(
            f"{name}: expected features of shape (n_rows, n_features), got shape "
            f"{features.shape}."
        )
    return features


def _find_keys(table: pd.DataFrame, *, by_file: bool = False) -> list[Key]:
    if "participant_id" not in table:
        return [_clean((label,)) for label in table.index]
    columns = [_texts(table, "participant_id", "sub-")]
    columns += [_texts(table, "session_id", "ses-"), _texts(table, "run", "run-")]
    if by_file:
        columns.append([PurePath(text).name for text in _texts(table, "image", "")])
    return list(zip(*columns, strict=True))


def _check_unique(name: str, rows: list[Key]) -> None:
    for key, count in Counter(rows).most_common(1):
        if count > 1:
            raise InputError(
                f"{name}: expected one row for each participant, session and run, got "
                f"{count} of {_name(key)}."
            )


def _clean(labels: tuple[Any, ...]) -> Key:
    prefixes = ("sub-", "ses-", "run-")
    pairs = zip(labels, prefixes, strict=False)
    return tuple(str(label).removeprefix(prefix) for label, prefix in pairs)


def _texts(table: pd.DataFrame, column: str, prefix: str) -> list[str]:
    if column not in table:
        return [""] * len(table)
    values = table[column].astype(object)
    # pandas turns run 1 into 1.0 in a column with missing values.
    texts = values.map(lambda v: "" if pd.isna(v) else str(v).removesuffix(".0"))
    return [text.removeprefix(prefix) for text in texts]


def _name(key: Key) -> str:
    return " ".join(filter(None, key))


def _show(rows: list[Key]) -> str:
    return f"{_name(rows[0])} and {len(rows) - 1} more" if rows else "no rows"
