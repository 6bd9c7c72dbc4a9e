"""A BIDS folder as a DataFrame, the X of estimators."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from brainfeat.exceptions import InputError
from brainfeat.io.paths import expand_home
from brainfeat.subjects.bids.filter import BidsSelection, parse_filters, read_filters
from brainfeat.subjects.bids.index import index_bids
from brainfeat.subjects.failures import describe_failure
from brainfeat.subjects.subject import Outcome, Subject

__all__ = ["load_bids"]

_LOGGER = logging.getLogger(__name__)
_MODALITIES = ("T1w", "T2w", "FLAIR")
# "007" is a name.
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d*)?([eE][+-]?\d+)?")


def load_bids(
    folder: str | os.PathLike[str],
    *,
    modalities: Sequence[str] | None = None,
    bids_filter: str | os.PathLike[str] | Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """List the anatomical images of a BIDS folder, for estimators.

    Parameters
    ----------
    folder : path-like
        BIDS dataset, with folders ``sub-*``.
    modalities : sequence of str, optional
        BIDS suffixes to look for; by default those of T1w, T2w and FLAIR that some
        participant has.
    bids_filter : path-like or mapping, optional
        Filter file of BIDS apps, or its content, such as
        ``{"t1w": {"acquisition": "mprage"}}``.

    Returns
    -------
    DataFrame
        A row per participant, session and run, indexed by participant, with the
        columns ``participant_id``, ``session_id``, ``run``, a path per modality, and
        those of ``participants.tsv`` and ``sessions.tsv``. What is missing is None
        or NaN. Sessions that cannot be used are one warning in the log.

    Raises
    ------
    InputError
        If there is no such folder, it has no such images, or the filter is invalid.
    """
    root = expand_home(folder)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder.")
    if isinstance(modalities, str):
        modalities = (modalities,)
    wanted = tuple(modalities or _MODALITIES)
    filters: Any = {}
    if isinstance(bids_filter, Mapping):
        filters = parse_filters(bids_filter, wanted, source="bids_filter")
    elif bids_filter is not None:
        filters = read_filters(Path(bids_filter), wanted)
    found = [*index_bids(root, wanted, BidsSelection(filters=filters))]
    failures = [item for item in found if isinstance(item, Outcome)]
    rows = [item for item in found if isinstance(item, Subject)]
    if failures:
        _LOGGER.warning(
            "%d sessions are left out: %s", len(failures), describe_failure(failures[0])
        )
    if not rows:
        names = ",".join(wanted)
        raise InputError(
            f"{root}: expected images sub-*/[ses-*/]anat/*_{{{names}}}, got none."
        )
    named = {name for row in rows for name in row.images}
    used = [name for name in wanted if modalities or name in named]
    lines = [_line(row, used) for row in rows]
    columns = {
        name: _typed(name, [line.get(name) for line in lines])
        for name in dict.fromkeys(name for line in lines for name in line)
    }
    frame = pd.DataFrame(columns)
    return frame.set_axis([row.participant_id for row in rows])


def _line(row: Subject, modalities: Sequence[str]) -> dict[str, str | None]:
    own = {
        "participant_id": row.participant_id,
        "session_id": row.session_id,
        "run": row.metadata.get("run"),
        **{name: row.paths.get(name) for name in modalities},
    }
    return {**own, **{k: v for k, v in row.metadata.items() if k not in own}}


def _typed(name: str, values: Sequence[Any]) -> "pd.Series[Any]":
    """Return numbers as numbers; names of digits, such as 007 and runs, stay text."""
    series = pd.Series(values, dtype=object)
    texts = [value for value in values if value is not None]
    if name == "run" or not texts or not all(map(_NUMBER.fullmatch, texts)):
        return series
    return pd.to_numeric(series)
