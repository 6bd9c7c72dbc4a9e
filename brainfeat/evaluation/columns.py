"""Columns of a feature table that are not features: confounds, sites, subjects."""

__all__ = [
    "Codes",
    "Columns",
    "Encoding",
    "SplitTable",
    "as_codes",
    "check_order",
    "split_columns",
]

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainfeat.exceptions import ConfigError, InputError

Columns = Sequence[str | int]
Codes = tuple[NDArray[np.intp], tuple[str, ...]]  # n_rows: indices into sorted names
Floats = NDArray[np.float64]


class SplitTable(NamedTuple):
    """Features of shape (n_rows, n_features), the selected columns, feature names."""

    features: Floats
    selected: pd.DataFrame
    names: list[str]


def split_columns(
    X: Any, columns: Columns, fitted: Sequence[str] | None = None
) -> SplitTable:
    """Separate columns from the features, which must have the `fitted` names."""
    if isinstance(columns, str) or not isinstance(columns, Sequence):
        raise ConfigError(f"expected a list of columns, got {columns!r}.")
    table = X if isinstance(X, pd.DataFrame) else pd.DataFrame(np.asarray(X))
    positions = [_position(table, column) for column in columns]
    selected = table.iloc[:, positions]
    missing = selected.columns[selected.isna().any()]
    if len(missing):
        raise InputError(
            f"X: expected a value in every row of {', '.join(map(str, missing))}."
        )
    rest = table.drop(columns=table.columns[positions])
    names = [str(name) for name in rest.columns]
    if fitted is not None:
        _check_names("features", fitted, names)
    try:
        features = rest.to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"X: expected numeric features ({error}).") from error
    if not np.isfinite(features).all():
        raise InputError("X: expected finite features, got NaN or infinite values.")
    return SplitTable(features, selected, names)


def check_order(X: Any, **columns: Any) -> None:
    """Check that a Series or DataFrame has its labels in the order of those of `X`."""
    if not _has_labels(X):
        return
    order = list(X.index)
    for name, values in columns.items():
        if not _has_labels(values):
            continue
        # Compared as Python objects: pandas may distinguish equal numbers by dtype.
        index = list(values.index)
        if index != order and set(index) == set(order):
            raise InputError(
                f"{name}: expected the index of X, got the same labels in another "
                "order."
            )


def as_codes(name: str, values: Any, n_rows: int) -> Codes:
    """Encode a column as indices into its sorted unique values, compared as text."""
    # As objects: an array of strings would turn NaN into a name.
    series = pd.Series(list(values), dtype=object)
    n_missing = int(series.isna().sum())
    if len(series) != n_rows or n_missing:
        raise InputError(
            f"{name}: expected a value for each of {n_rows} rows, got {len(series)} "
            f"values, {n_missing} of them missing."
        )
    names, codes = np.unique(series.map(str).to_numpy(dtype=str), return_inverse=True)
    return codes.astype(np.intp), tuple(map(str, names))


@dataclass(frozen=True, eq=False)
class Encoding:
    """Encodes confounds as numbers: numeric columns as they are, others one-hot."""

    names: tuple[str, ...]
    levels: tuple[tuple[str, ...] | None, ...]  # of each column; None if numeric

    @classmethod
    def learn(cls, table: pd.DataFrame) -> "Encoding":
        """Find the numeric columns, and the levels of the others."""
        levels = [
            None if _is_numeric(values) else tuple(sorted(set(map(str, values))))
            for _, values in table.items()
        ]
        return cls(tuple(map(str, table.columns)), tuple(levels))

    def apply(self, table: pd.DataFrame) -> Floats:
        """Encode the columns of `learn`: (n_rows, n_numbers)."""
        _check_names("columns", self.names, [str(name) for name in table.columns])
        parts = [np.empty((len(table), 0))]
        columns = zip(self.names, self.levels, strict=True)
        for position, (name, levels) in enumerate(columns):
            values = table.iloc[:, position]
            if levels is None:
                parts.append(_as_numbers(name, values)[:, None])
            else:
                parts.append(_one_hot(name, values, levels))
        return np.hstack(parts)


def _has_labels(values: Any) -> bool:
    is_table = isinstance(values, pd.DataFrame | pd.Series)
    return is_table and not isinstance(values.index, pd.RangeIndex)


def _position(table: pd.DataFrame, column: str | int) -> int:
    matches = [i for i, name in enumerate(table.columns) if name == column]
    n_columns = len(table.columns)
    if not matches and isinstance(column, int) and -n_columns <= column < 0:
        return n_columns + column
    if len(matches) != 1:
        raise InputError(
            f"X: expected one column {column!r}, got {len(matches)} among "
            f"{n_columns} columns."
        )
    return matches[0]


def _check_names(kind: str, fitted: Sequence[str], names: Sequence[str]) -> None:
    if len(names) != len(fitted):
        raise InputError(
            f"X: expected the {len(fitted)} {kind} that were fitted, got {len(names)}."
        )
    for position, (expected, name) in enumerate(zip(fitted, names, strict=True)):
        if name != expected:
            raise InputError(
                f"X: expected the {kind} that were fitted, in their order: {expected} "
                f"at position {position}, got {name}."
            )


def _as_numbers(name: str, values: "pd.Series[Any]") -> Floats:
    try:
        numbers = values.to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name}: expected numbers, as in the rows that were fitted ({error})."
        ) from error
    if not np.isfinite(numbers).all():
        raise InputError(f"{name}: expected finite numbers, got infinite ones or NaN.")
    return numbers


def _one_hot(name: str, values: "pd.Series[Any]", levels: tuple[str, ...]) -> Floats:
    text = np.array([str(value) for value in values])
    unknown = sorted(set(text) - set(levels))
    if unknown:
        raise InputError(
            f"{name}: expected one of {', '.join(levels)}, as in the rows that "
            f"were fitted, got {', '.join(unknown)}."
        )
    return np.asarray(text[:, None] == np.array(levels), dtype=np.float64)


def _is_numeric(values: "pd.Series[Any]") -> bool:
    if isinstance(values.dtype, pd.CategoricalDtype):
        return False  # even if the categories are numbers
    # Booleans are numeric: one column is enough for them.
    if pd.api.types.is_numeric_dtype(values):
        return True
    return all(isinstance(value, Real) for value in values)
