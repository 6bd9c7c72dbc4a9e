"""What makes a score too good: one subject on both sides, and confounded sites."""

__all__ = ["duplicate_rows", "site_association", "warn_of_leakage"]

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2_contingency

from brainfeat.evaluation.columns import as_codes
from brainfeat.exceptions import InputError, LeakageWarning

Rows = NDArray[np.intp]


def warn_of_leakage(
    train: ArrayLike, test: ArrayLike, *, groups: Any = None, hashes: Any = None
) -> bool:
    """Warn if a split shows the test subjects to the training.

    Parameters
    ----------
    train, test : array-like of int
        Rows of the two sides, counted from 0.
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
        If neither groups nor hashes are given, they differ in length or miss a value,
        or a row is none of theirs.

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
    n_rows = len(hashes if groups is None else groups)
    train, test = _as_rows("train", train, n_rows), _as_rows("test", test, n_rows)
    columns = [("rows", np.arange(n_rows), tuple(map(str, range(n_rows))))]
    if groups is not None:
        columns.append(("subjects", *as_codes("groups", groups, n_rows)))
    if hashes is not None:
        found_hashes = as_codes("hashes", hashes, n_rows)
        columns.append(("images of the same content", *found_hashes))
    found = False
    for what, codes, names in columns:
        shared = np.intersect1d(codes[train], codes[test])
        if len(shared):
            found = True
            warnings.warn(
                f"{len(shared)} {what} on both sides of the split, first "
                f"{names[shared[0]]}: "
                "the score tells how well subjects are recognised.",
                LeakageWarning,
                stacklevel=2,
            )
        if found and what == "rows":
            break  # and with them, of course, their subjects and contents
    return found


def _as_rows(name: str, rows: ArrayLike, n_rows: int) -> Rows:
    given = np.asarray(rows)
    # A negative row would be taken for another one from the end.
    strange = [row for row in given.ravel().tolist() if row not in range(n_rows)]
    if given.dtype == bool or strange:
        raise InputError(
            f"{name}: expected rows from 0 to {n_rows - 1}, got "
            f"{strange[0] if strange else 'a mask'}."
        )
    return given.astype(np.intp)


def duplicate_rows(features: NDArray[np.floating], groups: Rows) -> tuple[Rows, int]:
    """Join groups that hold the same features: one scan under two names."""
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
    """Measure how far the site gives the label away."""
    counts = np.zeros((labels.max() + 1, site.max() + 1))
    np.add.at(counts, (labels, site), 1)
    statistic, p_value, *_ = chi2_contingency(counts, correction=False)
    v = np.sqrt(statistic / (len(labels) * (min(counts.shape) - 1)))
    return float(v), float(p_value)
