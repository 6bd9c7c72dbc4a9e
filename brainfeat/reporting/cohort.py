"""The cohort of a report: embeddings, names and known columns of its rows."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainfeat.evaluation.classes import choose_positive
from brainfeat.exceptions import InputError
from brainfeat.subjects.subject import ADDED_COLUMNS

__all__ = ["Cohort", "find_column", "join_participants"]

logger = logging.getLogger(__name__)

_LABELS = ("diagnosis", "dx", "group", "label", "y")
_SITES = ("site", "scanner", "center", "site_id")
_AGES = ("age", "age_at_scan")
_SEXES = ("sex", "gender")


@dataclass(frozen=True, eq=False, kw_only=True)
class Cohort:
    """Rows of a table, and which of its columns are label, site, age and confounds."""

    embeddings: NDArray[np.floating]
    names: Sequence[str]
    participants: Sequence[str]  # subject of each row; the same for repeat scans
    known: pd.DataFrame
    label: str | None
    site: str | None
    age: str | None
    confounds: Sequence[str]
    pos_label: Any = None

    @classmethod
    def build(
        cls,
        embeddings: NDArray[np.floating],
        names: Sequence[str],
        participants: Sequence[str],
        known: pd.DataFrame,
        *,
        label: str | None = None,
        confounds: Sequence[str] | None = None,
        pos_label: Any = None,
    ) -> "Cohort":
        """Find columns by their usual names; confounds are age and sex by default."""
        if label is not None and label not in known:
            raise InputError(
                f"expected a column {label!r} of labels, got "
                f"{', '.join(map(str, known.columns)) or 'none'}."
            )
        known = known.reset_index(drop=True)
        age = find_column(known, _AGES)
        if age is not None:
            known = known.assign(**{age: _read_ages(known[age])})
        label = label or find_column(known.drop(columns=confounds or []), _LABELS)
        if pos_label is not None:
            texts = set() if label is None else set(known[label].dropna().map(_to_text))
            choose_positive(sorted(texts), pos_label)  # raises if it is none of them
        others = known.drop(columns=[] if label is None else label)
        site, age = find_column(others, _SITES), find_column(others, _AGES)
        if confounds is None:
            usual = (age, find_column(others, _SEXES))
            confounds = [name for name in usual if name is not None]
        return cls(
            embeddings=embeddings,
            names=list(names),
            participants=list(participants),
            known=known,
            label=label,
            site=site,
            age=age,
            confounds=[name for name in confounds if name != site],
            pos_label=pos_label,
        )

    def acquisition(self, column: str) -> "pd.Series[Any] | None":
        """Return a column such as ``modalities``; None if it is absent or empty."""
        if column not in self.known or self.known[column].isna().all():
            return None
        return self.known[column]

    def texts(self, column: str) -> "pd.Series[Any]":
        """Return a column as text; ``unknown`` stands for missing values."""
        return self.known[column].map(_to_text)


def find_column(table: pd.DataFrame, names: Sequence[str]) -> str | None:
    """Return the first non-empty column that has one of the names, in any case."""
    by_name = {str(column).lower(): str(column) for column in table.columns}
    for name in names:
        column = by_name.get(name)
        if column is not None and table[column].notna().any():
            return column
    return None


def join_participants(
    metadata: pd.DataFrame, participants: pd.DataFrame, source: str
) -> pd.DataFrame:
    """Add the columns of participants.tsv to the rows of an embedding table.

    Names match with or without ``sub-``. Where a participant has several lines,
    ``session_id`` selects one, with or without ``ses-``.
    """
    if "participant_id" not in participants:
        raise InputError(
            f"{source}: expected a column participant_id, got "
            f"{', '.join(map(str, participants.columns)) or 'none'}."
        )
    participants = participants.dropna(subset="participant_id")
    keys, wanted = _keys(participants), _keys(metadata)
    has_sessions = "session_id" in participants and "session_id" in metadata
    by_session = has_sessions and bool(keys.duplicated().any())
    if by_session:
        keys = _keys(participants, by_session=True)
        wanted = _keys(metadata, by_session=True)
    if keys.duplicated().any():
        duplicate = keys[keys.duplicated()].iloc[0]
        raise InputError(f"{source}: participant {duplicate} has more than one line.")
    _check_matches(wanted, keys, source, by_session=by_session)
    computed = ["participant_id", "session_id", *ADDED_COLUMNS]
    added = participants.drop(columns=computed, errors="ignore")
    added = added.set_axis(keys).reindex(wanted)
    own = metadata.drop(columns=[c for c in added.columns if c in metadata])
    return pd.concat([own, added.set_axis(metadata.index)], axis=1)


def _check_matches(
    wanted: "pd.Series[str]", keys: "pd.Series[str]", source: str, *, by_session: bool
) -> None:
    """Fail if no row has a line, and warn if some have none."""
    absent = wanted[~wanted.isin(keys)]
    if len(absent) == len(wanted):
        what = "participant_id with its session_id" if by_session else "participant_id"
        raise InputError(
            f"{source}: expected the {what} of the table, such as {absent.iloc[0]}, "
            "got none of them."
        )
    if len(absent):
        # Spreadsheets turn 01 into 1, and then only some names match.
        values = (source, len(absent), len(wanted), absent.iloc[0])
        logger.warning("%s: no line for %d of %d rows, such as %s.", *values)


def _read_ages(ages: "pd.Series[Any]") -> "pd.Series[Any]":
    """Read ages as numbers, ``89+`` as 89, unless one of them is no number."""
    numbers = pd.to_numeric(ages.astype(str).str.removesuffix("+"), errors="coerce")
    return numbers if numbers.notna().equals(ages.notna()) else ages


def _keys(table: pd.DataFrame, *, by_session: bool = False) -> "pd.Series[str]":
    keys = table["participant_id"].map(str).str.removeprefix("sub-")
    if by_session:
        sessions = table["session_id"].fillna("none").map(str)
        keys = keys + ", session " + sessions.str.removeprefix("ses-")
    return keys


def _to_text(value: Any) -> str:
    if pd.isna(value):
        return "unknown"
    if isinstance(value, float) and value.is_integer():
        return f"{value:.0f}"
    return str(value)
