"""What makes a score too good: one subject on both sides, and confounded sites."""

__all__ = ["duplicate_rows", "site_association", "warn_of_leakage"]

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2_contingency

from brainfeat.exceptions import InputError, LeakageWarning

Rows = NDArray[np.intp]


def warn_of_leakage(
    train: ArrayLike, test: ArrayLike, *, groups: Any = None, hashes: Any = None
) -> bool:
    """Warn if a split shows the test subjects to the training.

    Parameters
    ----------
    train, test : array-like of int
        Rows of the two sides.
    groups : array-like of shape (n_rows,), optional
        Subject of each row.
    hashes : array-like of shape (n_rows,), optional
        Fingerprint of the content of each row, such as ``input_sha256`` of an
        embedding table: it finds one scan under two names.

    Returns
    -------
    bool
        Whether there was anything to warn of.

    Raises
    ------
    InputError
        If neither groups nor hashes are given.

    Warns
    -----
    LeakageWarning
        For rows on both sides; else for subjects, and for content.

    Examples
    --------
    >>> warn_of_leakage([0, 1], [2, 3], groups=["a", "b", "c", "d"])
    False
    """
    if groups is None and hashes is None:
        raise InputError("warn_of_leakage: expected groups or hashes, got neither.")
    train, test = np.asarray(train, dtype=np.intp), np.asarray(test, dtype=np.intp)
    found = False
    for what, values in (
        ("rows", np.arange(max(train.max(), test.max()) + 1)),
        ("subjects", groups),
        ("images of the same content", hashes),
    ):
        if values is None:
            continue
        names = np.array([str(value) for value in values])
        shared = sorted(set(names[train]) & set(names[test]))
        if shared:
            found = True
            warnings.warn(
                f"{len(shared)} {what} on both sides of the split, first {shared[0]}: "
                "the score tells how well subjects are recognised.",
                LeakageWarning,
                stacklevel=2,
            )
        if found and what == "rows":
            break  # and with them, of course, their subjects and contents
    return found


def duplicate_rows(features: NDArray[np.floating], groups: Rows) -> tuple[Rows, int]:
    """Join groups that hold the same features: one scan under two names.

    Parameters
    ----------
    features : ndarray of shape (n_rows, n_features)
        Features; equal images have equal ones.
    groups : ndarray of int of shape (n_rows,)
        Subject of each row, as it was told.

    Returns
    -------
    groups : ndarray of int of shape (n_rows,)
        Subjects without duplicates.
    n_duplicates : int
        Rows whose features another subject has, too.
    """
    _, content, counts = np.unique(
        features, axis=0, return_inverse=True, return_counts=True
    )
    content = content.reshape(-1)
    joined = groups.copy()
    n_duplicates = 0
    for value in np.flatnonzero(counts > 1):
        members = np.unique(joined[content == value])
        if len(members) > 1:
            n_duplicates += int((content == value).sum())
            joined[np.isin(joined, members)] = members[0]
    return joined, n_duplicates


def site_association(labels: Rows, site: Rows) -> tuple[float, float]:
    """Measure how far the site gives the label away.

    Parameters
    ----------
    labels, site : ndarray of int of shape (n_rows,)
        Codes from 0, all of them used; two or more of each.

    Returns
    -------
    cramers_v : float
        From 0, independent, to 1, when one follows from the other.
    p_value : float
        Of the chi-squared test of independence.
    """
    counts = np.zeros((labels.max() + 1, site.max() + 1))
    np.add.at(counts, (labels, site), 1)
    statistic, p_value, *_ = chi2_contingency(counts, correction=False)
    v = np.sqrt(statistic / (len(labels) * (min(counts.shape) - 1)))
    return float(v), float(p_value)
