"""Which subject an image belongs to, by the names of its files."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainfeat.subjects.subject import Subject

__all__ = ["find_owner", "subject_groups"]

_OWNER = re.compile(r"(?:^|[/\\_])(sub|ses)-([0-9A-Za-z]+)")


def find_owner(name: str) -> dict[str, str]:
    """Return the labels of ``sub`` and ``ses`` in a path; the file name comes first.

    >>> find_owner("sub-012/anat/sub-012_ses-a_T1w.nii.gz")
    {'sub': '012', 'ses': 'a'}
    """
    return dict(_OWNER.findall(name))


def subject_groups(X: Any, rows: Sequence[Subject]) -> NDArray[np.int64]:
    """Return the number of each row's subject, of shape (n_rows,), for grouped splits.

    Rows are of one subject if they share a name, a file, or the ``sub-`` in one; the
    first level of the index of a pandas X is the name.
    """
    if isinstance(X, pd.Series | pd.DataFrame):
        labels = [str(label) for label in X.index.get_level_values(0)]
    else:
        labels = [subject.participant_id for subject in rows]
    groups = np.arange(len(rows))
    first_rows: dict[str, int] = {}
    for row, (label, subject) in enumerate(zip(labels, rows, strict=True)):
        names = {label, *subject.paths.values()}
        subs = {sub for name in names if (sub := find_owner(name).get("sub"))}
        # Some tools drop leading zeros.
        for key in [*names, *(f"sub-{sub.lstrip('0')}" for sub in subs)]:
            first = first_rows.setdefault(key, row)
            if groups[first] != groups[row]:
                groups[groups == groups[row]] = groups[first]
    return groups
