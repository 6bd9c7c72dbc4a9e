"""A cohort as a report sees it: embeddings, who the subjects are, and what is known."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainfeat.exceptions import InputError

__all__ = ["Cohort", "find_column", "join_participants"]

logger = logging.getLogger(__name__)

_LABELS = ("diagnosis", "dx", "group", "label", "y")
_SITES = ("site", "scanner", "center", "site_id")
_AGES = ("age", "age_at_scan")
_SEXES = ("sex", "gender")


@dataclass(frozen=True, eq=False, kw_only=True)
class Cohort:
    """Rows of a table with what is known of each.

    Parameters
    ----------
    embeddings : ndarray of shape (n_rows, n_features)
        Features.
    names : sequence of str
        What rows are called.
    participants : sequence of str
        Who was scanned; repeat scans have the same name.
    known : DataFrame of n_rows
        Columns such as diagnosis, site, age and sex; missing values are NaN. An age
        of ``89+``, as BIDS caps them, is 89.
    label : str or None
        Column of the classes.
    told_confounds : sequence of str or None
        Columns of what may explain the label; None if none are told.
    """

    embeddings: NDArray[np.floating]
    names: Sequence[str]
    participants: Sequence[str]
    known: pd.DataFrame
    label: str | None
    told_confounds: Sequence[str] | None = None

    @property
    def site(self) -> str | None:
        """Column of the site, if there is one."""
        return self._find(_SITES)

    @property
    def age(self) -> str | None:
        """Column of the age, if there is one."""
        return self._find(_AGES)

    @property
    def confounds(self) -> list[str]:
        """Those that are told, else age and sex, as far as there are some."""
        found = self.told_confounds
        if found is None:
            found = [n for n in (self.age, self._find(_SEXES)) if n is not None]
        # The site is accounted for by itself.
        return [name for name in found if name != self.site]

    def texts(self, column: str) -> "pd.Series[Any]":
        """Write the values of a column as text.

        Parameters
        ----------
        column : str
            One of ``known``.

        Returns
        -------
        Series of str
            Whole numbers without a point, and ``unknown`` where a value is missing.
        """
        return self.known[column].map(_to_text)

    @classmethod
    def build(
        cls,
        embeddings: NDArray[np.floating],
        names: Sequence[str],
        participants: Sequence[str],
        known: pd.DataFrame,
        label: str | None = None,
        confounds: Sequence[str] | None = None,
    ) -> "Cohort":
        """Find the column of the classes, if none is named.

        Parameters
        ----------
        embeddings : ndarray of shape (n_rows, n_features)
            Features.
        names, participants : sequence of str
            One a row.
        known : DataFrame of n_rows
            What is known of each.
        label : str, optional
            Column of the classes; by default one called diagnosis, dx, group,
            label or y, and none of ``confounds``.
        confounds : sequence of str, optional
            Columns of what may explain the label; by default age and sex.

        Returns
        -------
        Cohort
            The cohort.

        Raises
        ------
        InputError
            If there is no such column.
        """
        if label is not None and label not in known:
            raise InputError(
                f"expected a column {label!r} of labels, got "
                f"{', '.join(map(str, known.columns)) or 'none'}."
            )
        known = known.reset_index(drop=True)
        age = find_column(known, _AGES)
        if age is not None:
            known = known.assign(**{age: _without_cap(known[age])})
        return cls(
            embeddings=embeddings,
            names=list(names),
            participants=list(participants),
            known=known,
            label=label or find_column(known.drop(columns=confounds or []), _LABELS),
            told_confounds=confounds,
        )

    def _find(self, names: Sequence[str]) -> str | None:
        # The label explains itself.
        others = self.known.columns.drop([] if self.label is None else self.label)
        return find_column(self.known[others], names)


def find_column(table: pd.DataFrame, names: Sequence[str]) -> str | None:
    """Find the first column that bears one of some names.

    Parameters
    ----------
    table : DataFrame
        Where to look.
    names : sequence of str
        In lower case, the best first.

    Returns
    -------
    str or None
        As it is written in the table; None if it is not there, or empty.
    """
    by_name = {str(column).lower(): str(column) for column in table.columns}
    for name in names:
        column = by_name.get(name)
        if column is not None and table[column].notna().any():
            return column
    return None


def join_participants(
    metadata: pd.DataFrame, participants: pd.DataFrame, source: str
) -> pd.DataFrame:
    """Add what a table of participants tells to the rows of an embedding table.

    Parameters
    ----------
    metadata : DataFrame
        With a column ``participant_id``.
    participants : DataFrame
        With a column ``participant_id``, with or without ``sub-``. Where a participant
        has several lines, ``session_id`` tells them apart, with or without ``ses-``.
    source : str
        File of the participants, for messages.

    Returns
    -------
    DataFrame
        As many rows as ``metadata``; its own columns come second to those of
        ``participants``, whose lines without a name are nobody's.

    Raises
    ------
    InputError
        If a column is missing, a participant or session is there twice, or none
        matches.
    """
    if "participant_id" not in participants:
        raise InputError(
            f"{source}: expected a column participant_id, got "
            f"{', '.join(map(str, participants.columns)) or 'none'}."
        )
    participants = participants.dropna(subset="participant_id")
    keys, wanted = _keys(participants), _keys(metadata)
    has_sessions = "session_id" in participants and "session_id" in metadata
    by_session = has_sessions and keys.duplicated().any()
    if by_session:
        keys = _keys(participants, by_session=True)
        wanted = _keys(metadata, by_session=True)
    if keys.duplicated().any():
        twice = keys[keys.duplicated()].iloc[0]
        raise InputError(f"{source}: participant {twice} is there more than once.")
    absent = wanted[~wanted.isin(keys)]
    if len(absent) == len(metadata):
        what = "participant_id with its session_id" if by_session else "participant_id"
        raise InputError(
            f"{source}: no {what} of the table is there, such as {absent.iloc[0]}."
        )
    if len(absent):
        # Spreadsheets make 1 of 01, and then only some names match.
        who = "sessions that" if by_session else "people who"
        text = "%s: %d of %d rows are of %s are not there, such as %s."
        logger.warning(text, source, len(absent), len(metadata), who, absent.iloc[0])
    told = participants.drop(columns=["participant_id", "session_id"], errors="ignore")
    told = told.set_axis(keys).reindex(wanted)
    own = metadata.drop(columns=[c for c in told.columns if c in metadata])
    return pd.concat([own, told.set_axis(metadata.index)], axis=1)


def _without_cap(ages: "pd.Series[Any]") -> "pd.Series[Any]":
    """Read ages as numbers, as far as all are: one text makes texts of a column."""
    numbers = pd.to_numeric(ages.astype(str).str.removesuffix("+"), errors="coerce")
    return numbers if numbers.notna().equals(ages.notna()) else ages


def _keys(table: pd.DataFrame, *, by_session: bool = False) -> "pd.Series[str]":
    """Name whom each row is of, and of which session."""
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
