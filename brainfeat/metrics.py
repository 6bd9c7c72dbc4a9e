"""Measures of agreement between measurements of the same subjects."""

__all__ = ["intraclass_correlation", "retrieval_accuracy"]

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brainfeat.exceptions import InputError


def intraclass_correlation(scores: ArrayLike) -> NDArray[np.float64]:
    """Compute ICC(2,1): absolute agreement of single measurements.

    Both the subjects and the raters, such as scanners, are samples of those that one
    could have had, and a rater who scores all subjects higher disagrees [1]_.

    Parameters
    ----------
    scores : array-like of shape (n_subjects, n_raters, ...)
        Score of each subject by each rater; further axes are scores of their own.

    Returns
    -------
    ndarray of float64 of shape (...)
        1 for perfect agreement, about 0 for none, at worst ``-1 / (n_raters - 1)``;
        NaN where all scores are equal.

    Raises
    ------
    InputError
        If there are fewer than two subjects or raters.

    References
    ----------
    .. [1] Shrout & Fleiss, "Intraclass correlations: uses in assessing rater
       reliability", Psychological Bulletin 86, 1979. doi:10.1037/0033-2909.86.2.420

    Examples
    --------
    >>> float(intraclass_correlation([[1, 1], [4, 4], [9, 9]]))
    1.0
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim < 2 or min(values.shape[:2]) < 2:
        raise InputError(
            "scores: expected shape (n_subjects, n_raters, ...) with at least two of "
            f"both, got {values.shape}."
        )
    n, k = values.shape[:2]
    centred = values - values.mean(axis=(0, 1))
    subjects, raters = centred.mean(axis=1), centred.mean(axis=0)
    residual = centred - subjects[:, None] - raters[None]
    # Mean squares of the two-way analysis of variance, as in the paper's table 2.
    between_subjects = k * np.square(subjects).sum(axis=0) / (n - 1)
    between_raters = n * np.square(raters).sum(axis=0) / (k - 1)
    error = np.square(residual).sum(axis=(0, 1)) / ((n - 1) * (k - 1))
    total = between_subjects + (k - 1) * error + k * (between_raters - error) / n
    agreement = np.full(total.shape, np.nan)
    np.divide(between_subjects - error, total, out=agreement, where=total > 0)
    return agreement


def retrieval_accuracy(features: ArrayLike, subjects: ArrayLike) -> float:
    """Compute how often the nearest other scan is of the same subject.

    Parameters
    ----------
    features : array-like of shape (n_rows, n_features)
        One row a scan; compared by their cosine after each feature is standardised.
    subjects : array-like of shape (n_rows,)
        Who was scanned.

    Returns
    -------
    float
        Share of those rows whose subject has another row, from 0 to 1.

    Raises
    ------
    InputError
        If lengths differ, or no subject has two rows.

    Examples
    --------
    >>> retrieval_accuracy([[0, 1], [0, 1.1], [2, 0], [2.2, 0]], ["a", "a", "b", "b"])
    1.0
    """
    rows = np.asarray(features, dtype=np.float64)
    _, people = np.unique(np.asarray(subjects), return_inverse=True)
    if rows.ndim != 2 or len(rows) != len(people):
        raise InputError(
            f"expected a subject for each row, got {len(people)} for shape "
            f"{rows.shape}."
        )
    can_be_found = np.bincount(people)[people] > 1
    if not can_be_found.any():
        raise InputError("subjects: expected one with two rows, got none.")
    spread = rows.std(axis=0)
    rows = (rows - rows.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(lengths > 0, lengths, 1.0)
    likeness = rows @ rows.T
    np.fill_diagonal(likeness, -np.inf)
    found = people[likeness.argmax(axis=1)] == people
    return float(found[can_be_found].mean())
