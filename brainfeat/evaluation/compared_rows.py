"""The rows that are compared, with their labels."""

__all__ = ["ComparedRows", "match_rows"]

import warnings
from collections.abc import Mapping, Sized
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainfeat.evaluation.columns import as_codes
from brainfeat.evaluation.labelled import LabelledFeatures
from brainfeat.evaluation.leakage import duplicate_rows
from brainfeat.evaluation.shared_rows import (
    find_shared_rows,
    has_names,
    read_features,
)
from brainfeat.evaluation.sites import associate_sites
from brainfeat.evaluation.tasks import Kind, read_labels
from brainfeat.exceptions import InputError, LeakageWarning, list_names

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


class ComparedRows(NamedTuple):
    """The same rows of all embeddings, with what is known of them."""

    features: dict[str, Floats]
    y: list[Any]
    groups: list[Any] | None
    site: list[Any] | None
    n_dropped: dict[str, int]

    def check(
        self, task: Kind, pos_label: Any
    ) -> tuple[dict[str, LabelledFeatures], list[str]]:
        """Combine each embedding with the labels, and find problems of the rows."""
        n_rows = len(self.y)
        labels, found = read_labels(self.y, n_rows, kind=task, pos_label=pos_label)
        groups: Rows = np.arange(n_rows)
        if self.groups is not None:
            groups, _ = as_codes("groups", self.groups, n_rows)
        site, names = self._site_codes()
        # One scan under two names is the same for every encoder.
        everything = np.hstack(list(self.features.values()))
        groups, n_twice = duplicate_rows(everything, groups)
        notes = []
        if n_twice:
            notes.append(
                f"{n_twice} rows have the same features as a row of another subject: "
                "these subjects are treated as one in all splits."
            )
            warnings.warn(notes[-1], LeakageWarning, stacklevel=3)
        confounds = np.empty((n_rows, 0))
        known = (labels, found, groups, site, names, confounds, notes)
        data = {n: LabelledFeatures(x, *known) for n, x in self.features.items()}
        return data, associate_sites(next(iter(data.values())))[1]

    def _site_codes(self) -> tuple[Rows | None, tuple[str, ...]]:
        if self.site is None:
            return None, ()
        texts = ["unknown" if pd.isna(value) else value for value in self.site]
        return as_codes("site", texts, len(texts))


def match_rows(
    embeddings: Mapping[str, Any], y: Any, groups: Any, site: Any
) -> ComparedRows:
    """Find the rows that all embeddings and the labels have."""
    if not isinstance(embeddings, Mapping) or not embeddings:
        got = "an empty one" if embeddings == {} else type(embeddings).__name__
        raise InputError(
            f"embeddings: expected a dict of names to features, got {got}."
        )
    features = {
        str(name): read_features(str(name), x) for name, x in embeddings.items()
    }
    columns = {"y": y, "groups": groups, "site": site}
    given = {name: values for name, values in columns.items() if values is not None}
    if all(map(has_names, embeddings.values())):
        tables = {str(name): table for name, table in embeddings.items()}
        shared = find_shared_rows(tables)
        known = {name: shared.align(name, values) for name, values in given.items()}
        known = {"groups": shared.participants} | known
        features = {n: x[shared.positions[n]] for n, x in features.items()}
        n_others = shared.n_others
    else:
        known = _check_lengths(features, _read_participants(embeddings) | given)
        n_others = dict.fromkeys(features, 0)
    n_rows = len(known["y"])
    is_used = pd.Series(known["y"], dtype=object).notna().to_numpy(dtype=np.bool_)
    for values in features.values():
        is_used = is_used & np.isfinite(values).all(axis=1)
    rows = np.flatnonzero(is_used)
    if not len(rows):
        empty = [n for n, x in features.items() if not np.isfinite(x).all(axis=1).any()]
        which = f"; {list_names(empty)} has no finite row" if empty else ""
        raise InputError(
            "y: expected rows with a label and finite features, got none among "
            f"{n_rows}{which}."
        )
    chosen = {name: [values[i] for i in rows] for name, values in known.items()}
    return ComparedRows(
        {name: values[rows] for name, values in features.items()},
        chosen["y"],
        chosen.get("groups"),
        chosen.get("site"),
        {name: n_rows - len(rows) + others for name, others in n_others.items()},
    )


def _read_participants(embeddings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the subjects of the first table that names them, else nothing."""
    for table in embeddings.values():
        if isinstance(table, pd.DataFrame) and "participant_id" in table:
            return {"groups": table["participant_id"]}
    return {}


def _check_lengths(
    features: Mapping[str, Floats], given: Mapping[str, Any]
) -> dict[str, list[Any]]:
    first, n_rows = next((name, len(x)) for name, x in features.items())
    known = {name: list(values) for name, values in given.items()}
    columns: dict[str, Sized] = {**features, **known}
    for name, values in columns.items():
        if len(values) != n_rows:
            raise InputError(
                f"{name}: expected {n_rows} rows, as {first} has, got {len(values)}; "
                "tables of different rows are joined by a column participant_id."
            )
    return known
