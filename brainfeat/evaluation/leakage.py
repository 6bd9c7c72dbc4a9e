"""Sources of optimistic scores: shared subjects, and confounded sites."""

__all__ = ["association", "duplicate_rows", "warn_of_leakage"]

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
    """Warn if training and test rows share subjects or images.

    Parameters
    ----------
    train, test : array-like of int
        Row indices of the two sides, from 0.
    groups : array-like of shape (n_rows,), optional
        Subject of each row.
    hashes : array-like of shape (n_rows,), optional
        Hash of the image of each row, such as ``input_sha256`` of an embedding
        table, which detects one scan under two names.

    Returns
    -------
    bool
        Whether the sides overlap.

    Raises
    ------
    InputError
        If neither groups nor hashes are given, their lengths differ, a value is
        missing, or an index is out of range.

    Warns
    -----
    LeakageWarning
        If rows, or else subjects or images, are on both sides.

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
        columns.append(("identical images", *as_codes("hashes", hashes, n_rows)))
    overlaps = False
    for kind, codes, names in columns:
        shared = np.intersect1d(codes[train], codes[test])
        if len(shared):
            overlaps = True
            message = (
                f"{len(shared)} {kind} on both sides of the split, first "
                f"{names[shared[0]]}: the score measures how well subjects are "
                "recognised."
            )
            warnings.warn(message, LeakageWarning, stacklevel=2)
        if overlaps and kind == "rows":
            break  # their subjects and images overlap as well
    return overlaps


def _as_rows(name: str, rows: ArrayLike, n_rows: int) -> Rows:
    given = np.asarray(rows)
    # Negative indices are not allowed either.
    invalid = [row for row in given.ravel().tolist() if row not in range(n_rows)]
    if given.dtype == bool or invalid:
        raise InputError(
            f"{name}: expected rows from 0 to {n_rows - 1}, got "
            f"{invalid[0] if invalid else 'a mask'}."
        )
    return given.astype(np.intp)


def duplicate_rows(features: NDArray[np.floating], groups: Rows) -> tuple[Rows, int]:
    """Merge groups with equal rows; also return the number of duplicated rows."""
    _, content, counts = np.unique(
        features, axis=0, return_inverse=True, return_counts=True
    )
    content = content.reshape(-1)
    merged = groups.copy()
    n_duplicates = 0
    for value in np.flatnonzero(counts > 1):
        members = np.unique(merged[content == value])
        if len(members) > 1:
            n_duplicates += int((content == value).sum())
            merged[np.isin(merged, members)] = members[0]
    return merged, n_duplicates


def association(first: Rows, second: Rows) -> tuple[float, float]:
    """Cramer's V of two columns and its p-value; 0 and 1 if one is constant."""
    _, first = np.unique(first, return_inverse=True)
    _, second = np.unique(second, return_inverse=True)
    counts = np.zeros((first.max() + 1, second.max() + 1))
    if min(counts.shape) < 2:
        return 0.0, 1.0
    np.add.at(counts, (first, second), 1)
    statistic, p_value, *_ = chi2_contingency(counts, correction=False)
    v = np.sqrt(statistic / (len(first) * (min(counts.shape) - 1)))
    return float(v), float(p_value)
