"""Whose an image is: subject and session by names of files, people by rows."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainfeat.subjects.subject import Subject

__all__ = ["find_owner", "number_people"]

# Whose a file is, by the BIDS entities in its name and its folders.
_OWNER = re.compile(r"(?:^|[/\\_])(sub|ses)-([0-9A-Za-z]+)")


def find_owner(name: str) -> dict[str, str]:
    """Read subject and session; those of the file go before those of its folders.

    Parameters
    ----------
    name : str
        Path or name.

    Returns
    -------
    dict of str
        Labels of ``sub`` and ``ses``, as far as they are told.

    Examples
    --------
    >>> find_owner("sub-012/anat/sub-012_ses-a_T1w.nii.gz")
    {'sub': '012', 'ses': 'a'}
    """
    return dict(_OWNER.findall(name))


def number_people(X: Any, subjects: Sequence[Subject]) -> NDArray[np.int64]:
    """Give each row the number of its person, who may have several.

    Parameters
    ----------
    X : list, Series, DataFrame, path-like or image
        As given by a user; the first level of its index, if it has one, names people.
    subjects : sequence of Subject
        Its rows.

    Returns
    -------
    ndarray of int of shape (n_rows,)
        The same number for rows that share a name, a file, or the ``sub-`` in one.
    """
    if isinstance(X, pd.Series | pd.DataFrame):
        labels = [str(label) for label in X.index.get_level_values(0)]
    else:
        labels = [subject.participant_id for subject in subjects]
    people = np.arange(len(subjects))
    first_rows: dict[str, int] = {}
    for row, (label, subject) in enumerate(zip(labels, subjects, strict=True)):
        names = {label, *subject.paths.values()}
        subs = {sub for name in names if (sub := find_owner(name).get("sub"))}
        # Some tools cut leading zeros off.
        for key in [*names, *(f"sub-{sub.lstrip('0')}" for sub in subs)]:
            first = first_rows.setdefault(key, row)
            if people[first] != people[row]:
                people[people == people[row]] = people[first]
    return people
