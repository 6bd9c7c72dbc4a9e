"""Columns of a feature table that are no features: confounds, sites, subjects."""

__all__ = [
    "Columns",
    "Design",
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


class SplitTable(NamedTuple):
    """A table in two parts."""

    features: NDArray[np.float64]
    chosen: pd.DataFrame
    names: list[str]


def split_columns(
    X: Any, columns: Columns, fitted: Sequence[str] | None = None
) -> SplitTable:
    """Take columns out of a table."""
    if isinstance(columns, str) or not isinstance(columns, Sequence):
        raise ConfigError(f"expected a list of columns, got {columns!r}.")
    table = X if isinstance(X, pd.DataFrame) else pd.DataFrame(np.asarray(X))
    places = [_find(table, column) for column in columns]
    chosen = table.iloc[:, places]
    if chosen.isna().to_numpy().any():
        gaps = [str(c) for c in chosen.columns[chosen.isna().any()]]
        raise InputError(f"X: expected a value in every row of {', '.join(gaps)}.")
    rest = table.drop(columns=table.columns[places])
    names = [str(name) for name in rest.columns]
    if fitted is not None:
        _check_names("features", fitted, names)
    try:
        features = rest.to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"X: expected features that are numbers ({error}).") from error
    if not np.isfinite(features).all():
        raise InputError("X: expected finite features, got NaN or infinite values.")
    return SplitTable(features, chosen, names)


def check_order(X: Any, **columns: Any) -> None:
    """Check that what is paired row by row does not say that it belongs elsewhere."""
    if not _names_rows(X):
        return
    order = list(X.index)
    for name, values in columns.items():
        if not _names_rows(values):
            continue
        # As Python compares them: for pandas, equal numbers of two dtypes may differ.
        found = list(values.index)
        if found != order and set(found) == set(order):
            raise InputError(
                f"{name}: expected the rows of X in their order, got its index in "
                "another."
            )


def as_codes(
    name: str, values: Any, n_rows: int
) -> tuple[NDArray[np.intp], tuple[str, ...]]:
    """Replace what a column tells of each row, such as its site, by numbers."""
    # Of objects: an array of texts would take NaN for a name.
    series = pd.Series(list(values), dtype=object)
    if len(series) != n_rows or series.isna().any():
        raise InputError(
            f"{name}: expected a value for each of {n_rows} rows, got {len(series)} "
            f"values, {int(series.isna().sum())} of them missing."
        )
    names, codes = np.unique(series.map(str).to_numpy(dtype=str), return_inverse=True)
    return codes.astype(np.intp), tuple(map(str, names))


@dataclass(frozen=True, eq=False)
class Design:
    """How confounds become numbers: learnt from some rows, applied to any."""

    categories: tuple[tuple[str, ...] | None, ...]
    names: tuple[str, ...]

    @classmethod
    def learn(cls, table: pd.DataFrame) -> "Design":
        """Find out which columns are numbers, and the levels of the others."""
        levels = [
            None if _is_number(values) else tuple(sorted(set(map(str, values))))
            for _, values in table.items()
        ]
        return cls(tuple(levels), tuple(map(str, table.columns)))

    def apply(self, table: pd.DataFrame) -> NDArray[np.float64]:
        """Write confounds as numbers."""
        _check_names("columns", self.names, [str(name) for name in table.columns])
        parts = [np.empty((len(table), 0))]
        for position, (name, levels) in enumerate(
            zip(self.names, self.categories, strict=True)
        ):
            values = table.iloc[:, position]
            if levels is None:
                parts.append(_as_numbers(name, values)[:, None])
                continue
            text = np.array([str(value) for value in values])
            unknown = sorted(set(text) - set(levels))
            if unknown:
                raise InputError(
                    f"{name}: expected one of {', '.join(levels)}, as in the rows that "
                    f"were fitted, got {', '.join(unknown)}."
                )
            parts.append((text[:, None] == np.array(levels)).astype(np.float64))
        return np.hstack(parts)


def _names_rows(values: Any) -> bool:
    is_table = isinstance(values, pd.DataFrame | pd.Series)
    return is_table and not isinstance(values.index, pd.RangeIndex)


def _find(table: pd.DataFrame, column: str | int) -> int:
    found = [place for place, name in enumerate(table.columns) if name == column]
    if not found and isinstance(column, int) and -len(table.columns) <= column < 0:
        return len(table.columns) + column
    if len(found) != 1:
        raise InputError(
            f"X: expected one column {column!r}, got {len(found)} among "
            f"{len(table.columns)} columns."
        )
    return found[0]


def _check_names(what: str, fitted: Sequence[str], found: Sequence[str]) -> None:
    if len(found) != len(fitted):
        raise InputError(
            f"X: expected the {len(fitted)} {what} that were fitted, got {len(found)}."
        )
    for place, (expected, name) in enumerate(zip(fitted, found, strict=True)):
        if name != expected:
            raise InputError(
                f"X: expected the {what} that were fitted, in their order: {expected} "
                f"at position {place}, got {name}."
            )


def _as_numbers(name: str, values: "pd.Series[Any]") -> NDArray[np.float64]:
    try:
        numbers = values.to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name}: expected numbers, as in the rows that were fitted ({error})."
        ) from error
    if not np.isfinite(numbers).all():
        raise InputError(f"{name}: expected finite numbers, got infinite ones or NaN.")
    return numbers


def _is_number(values: "pd.Series[Any]") -> bool:
    if isinstance(values.dtype, pd.CategoricalDtype):
        return False  # whatever its categories are called
    # Two-valued flags as well: one column is enough for them.
    if pd.api.types.is_numeric_dtype(values):
        return True
    return all(isinstance(value, Real) for value in values)
