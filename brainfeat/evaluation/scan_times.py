"""When the scans of a table were made, and which are repeats of one visit."""

__all__ = ["ScanTimes", "read_scan_times"]

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainfeat.evaluation.columns import as_codes
from brainfeat.exceptions import ConfigError, InputError, list_names

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
TimeUnit = Literal["years", "months", "days"]

_TIMES = ("age", "age_at_scan", "time", "years", "acq_time", "scan_date", "date")
_PER_YEAR = {"years": 1.0, "months": 12.0, "days": 365.25}


@dataclass(frozen=True, eq=False)
class ScanTimes:
    """Subjects, times and visits of the rows of which a time is known."""

    rows: Rows  # positions in the table, by subject and time
    subjects: Rows  # n_rows: codes into names, ascending
    names: tuple[str, ...]
    years: Floats  # n_rows
    visits: Rows  # n_rows: codes; rows of one visit are repeats

    def take(self, rows: NDArray[np.bool_]) -> "ScanTimes":
        """Return some of the rows."""
        columns = (self.subjects[rows], self.names, self.years[rows], self.visits[rows])
        return ScanTimes(self.rows[rows], *columns)

    def of_followed(self) -> "ScanTimes":
        """Return the rows of subjects with visits at different times."""
        _, codes = np.unique(self.subjects, return_inverse=True)
        low, high = np.full(codes.max() + 1, np.inf), np.full(codes.max() + 1, -np.inf)
        np.minimum.at(low, codes, self.years)
        np.maximum.at(high, codes, self.years)
        pairs = np.unique(np.column_stack([codes, self.visits]), axis=0)
        n_visits = np.bincount(pairs[:, 0])
        return self.take(((high > low) & (n_visits > 1))[codes])


def read_scan_times(
    table: pd.DataFrame,
    *,
    time: str | None,
    time_unit: TimeUnit,
    subject: str,
    session: str,
    repeats_within: float,
) -> ScanTimes:
    """Read subjects and times; rows of a session, or close in time, are one visit."""
    if subject not in table:
        raise InputError(
            f"table: expected a column {subject!r} of the subject of each row, got "
            f"{list_names(_known(table))}."
        )
    name = time or _find_time(table)
    years = _read_years(table, name, time_unit)
    known = np.flatnonzero(np.isfinite(years))
    if not len(known):
        raise InputError(f"table: expected times in column {name!r}, got none.")
    codes, names = as_codes(subject, table[subject].iloc[known], len(known))
    order = np.lexsort([years[known], codes])
    rows, codes, years = known[order], codes[order], years[known][order]
    sessions = None
    if session in table and table[session].iloc[rows].notna().all():
        sessions = as_codes(session, table[session].iloc[rows], len(rows))[0]
    visits = _number_visits(codes, years, sessions, repeats_within)
    return ScanTimes(rows, codes, names, years, visits)


def _find_time(table: pd.DataFrame) -> str:
    by_name = {str(column).lower(): str(column) for column in table.columns}
    for name in _TIMES:
        if name in by_name and table[by_name[name]].notna().any():
            return by_name[name]
    raise InputError(
        "table: expected a column of the time of each scan, such as "
        f"{', '.join(_TIMES[:3])}, in years, or of its date; got "
        f"{list_names(_known(table))}. Name it by time=."
    )


def _known(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table.columns if not str(name).startswith("emb_")]


def _read_years(table: pd.DataFrame, name: str, unit: TimeUnit) -> Floats:
    if name not in table:
        got = list_names(_known(table))
        raise InputError(f"table: expected a column {name!r} of times, got {got}.")
    if unit not in get_args(TimeUnit):
        units = ", ".join(get_args(TimeUnit))
        raise ConfigError(f"time_unit: expected one of {units}, got {unit!r}.")
    values: pd.Series[Any] = table[name]
    numbers = pd.to_numeric(values, errors="coerce")
    is_date = pd.api.types.is_datetime64_any_dtype(values.dtype)
    if not is_date and numbers.notna().equals(values.notna()):
        years = numbers.to_numpy(dtype=np.float64) / _PER_YEAR[unit]
        return np.where(np.isfinite(years), years, np.nan)
    dates = pd.to_datetime(values, errors="coerce", utc=True, format="ISO8601")
    wrong = values[dates.isna() & values.notna()]
    if len(wrong):
        raise InputError(
            f"table: expected numbers or ISO dates in column {name!r}, got "
            f"{wrong.iloc[0]!r}."
        )
    days = (dates - dates.min()) / pd.Timedelta(days=1)
    return np.asarray(days.to_numpy(dtype=np.float64) / _PER_YEAR["days"])


def _number_visits(
    subjects: Rows, years: Floats, sessions: Rows | None, within: float
) -> Rows:
    """Return the visit of each row: that of the row before if session or time agree."""
    visits = np.zeros(len(years), dtype=np.intp)
    start = 0
    for row in range(1, len(years)):
        is_same = subjects[row] == subjects[row - 1] and (
            years[row] - years[start] <= within
            or (sessions is not None and sessions[row] == sessions[row - 1])
        )
        start = start if is_same else row
        visits[row] = visits[row - 1] + (not is_same)
    return visits
