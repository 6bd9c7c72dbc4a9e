"""Distance of each row to a cohort: failed scans and atypical subjects."""

__all__ = ["CohortDistances", "cohort_distances"]

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import KFold

from brainfeat.evaluation.columns import as_codes, check_order
from brainfeat.evaluation.covariance import SubjectCovariance, subject_weights
from brainfeat.evaluation.leakage import duplicate_rows
from brainfeat.exceptions import InputError

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

_N_FOLDS = 5
# Folds of few subjects differ in their covariance, as rows then do in distance.
_N_FOLDS_OF_FEW, _FEW = 20, 300
_MIN_ROWS = 10
_MIN_SUBJECTS = 5
_LIMIT = 3.5  # robust standard scores, as Iglewicz and Hoaglin advise


class CohortDistances(NamedTuple):
    """Distance of each row to a cohort, and its robust standard score."""

    distance: Floats  # n_rows: Mahalanobis, over the square root of n_features
    score: Floats  # n_rows: of the log of the distance, among the cohort's own rows

    @property
    def is_outlier(self) -> NDArray[np.bool_]:
        """Rows that lie more than 3.5 robust standard deviations out."""
        return np.asarray(self.score > _LIMIT)


def cohort_distances(
    X: ArrayLike,
    reference: Any = None,
    *,
    groups: Any = None,
    reference_groups: Any = None,
) -> CohortDistances:
    """Mahalanobis distances to the other subjects of a cohort.

    The covariance is shrunk [1]_, and each subject counts once in it, with any number
    of rows. A row is never compared with rows of its own subject: a repeat scan is so
    close that all rows without one would look distant.

    Parameters
    ----------
    X : array-like of shape (n_rows, n_features)
        Rows to compare.
    reference : array-like of shape (n_reference, n_features), optional
        The cohort, such as the training subjects of a classifier. By default ``X``
        itself, each row compared with the rows of other subjects.
    groups : array-like of shape (n_rows,), optional
        Subject of each row of ``X``. By default each row is a subject, except rows
        with equal features.
    reference_groups : array-like of shape (n_reference,), optional
        Subject of each row of the reference. Rows of ``X`` of these subjects are
        compared with the others.

    Returns
    -------
    CohortDistances
        Distances, and their robust standard scores.

    Raises
    ------
    InputError
        If the cohort has fewer than ten rows or five subjects, the numbers of features
        differ, values are not finite, or ``reference_groups`` is given without
        ``reference``.

    References
    ----------
    .. [1] Ledoit & Wolf, "A well-conditioned estimator for large-dimensional
       covariance matrices", Journal of Multivariate Analysis 88, 2004.
       doi:10.1016/S0047-259X(03)00096-4
    """
    rows = np.asarray(X, dtype=np.float64)
    cohort = rows if reference is None else np.asarray(reference, dtype=np.float64)
    _check(rows, cohort)
    if reference is None and reference_groups is not None:
        raise InputError("reference_groups: expected with a reference, got none.")
    check_order(X, groups=groups)
    if reference is None:
        subjects = own_subjects = _name_subjects(rows, groups)
    else:
        check_order(reference, reference_groups=reference_groups)
        joint = np.vstack([cohort, rows])
        codes = _name_subjects(joint, _join(reference_groups, groups, cohort, rows))
        own_subjects, subjects = codes[: len(cohort)], codes[len(cohort) :]
    if len(np.unique(own_subjects)) < _MIN_SUBJECTS:
        raise InputError(
            f"expected a cohort of at least {_MIN_SUBJECTS} subjects, got "
            f"{len(np.unique(own_subjects))}."
        )
    own, distance = _held_out(cohort, own_subjects, rows, subjects)
    logs, weights = np.log(own), subject_weights(own_subjects)
    center = _median(logs, weights)
    spread = 1.4826 * _median(np.abs(logs - center), weights)
    score = (np.log(distance) - center) / max(spread, 1e-12)
    return CohortDistances(own if reference is None else distance, score)


def _check(rows: Floats, cohort: Floats) -> None:
    is_comparable = cohort.ndim == 2 and rows.shape[1:] == cohort.shape[1:]
    if not is_comparable or len(cohort) < _MIN_ROWS:
        raise InputError(
            f"expected a cohort of at least {_MIN_ROWS} rows, and rows of as many "
            f"features, got shapes {cohort.shape} and {rows.shape}."
        )
    if not (np.isfinite(rows).all() and np.isfinite(cohort).all()):
        raise InputError("expected finite features, got NaN or infinite values.")


def _join(own: Any, groups: Any, cohort: Floats, rows: Floats) -> list[str] | None:
    """Join the subjects of reference and rows; those without a name are alone."""
    if own is None and groups is None:
        return None
    names = []
    for side, given, n_rows in (("reference_", own, cohort), ("", groups, rows)):
        if given is None:
            # A name that no other row has.
            names += [f"\0{side}{row}" for row in range(len(n_rows))]
        else:
            codes, texts = as_codes(f"{side}groups", given, len(n_rows))
            names += [texts[code] for code in codes]
    return names


def _name_subjects(rows: Floats, groups: Any) -> Rows:
    """Return the code of the subject of each row; equal rows are of one."""
    n_rows = len(rows)
    if groups is None:
        return duplicate_rows(rows, np.arange(n_rows))[0]
    return duplicate_rows(rows, as_codes("groups", groups, n_rows)[0])[0]


def _held_out(
    cohort: Floats, own_subjects: Rows, rows: Floats, subjects: Rows
) -> tuple[Floats, Floats]:
    """Distances of the cohort's rows and of the rows, each to other subjects."""
    # In folds: a row used for the covariance is never far from it.
    names = np.unique(own_subjects)
    own, distance = np.empty(len(cohort)), np.empty(len(rows))
    n_folds = _N_FOLDS if len(names) > _FEW else min(_N_FOLDS_OF_FEW, len(names))
    folds = KFold(n_folds, shuffle=True, random_state=0)
    for _, left_out in folds.split(names):
        is_test = np.isin(own_subjects, names[left_out])
        model = SubjectCovariance.fit(cohort[~is_test], own_subjects[~is_test])
        own[is_test] = model.distance(cohort[is_test])
        is_own = np.isin(subjects, names[left_out])
        if is_own.any():
            distance[is_own] = model.distance(rows[is_own])
    is_new = ~np.isin(subjects, names)
    if is_new.any():
        model = SubjectCovariance.fit(cohort, own_subjects)
        distance[is_new] = model.distance(rows[is_new])
    return own, distance


def _median(values: Floats, weights: Floats) -> float:
    """Weighted median, halfway between two if the weights leave it open."""
    low, minus_high = (
        np.quantile(sign * values, 0.5, weights=weights, method="inverted_cdf")
        for sign in (1.0, -1.0)
    )
    return float(low - minus_high) / 2.0
