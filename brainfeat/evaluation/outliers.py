"""Distance of each row to a cohort: failed scans and atypical subjects."""

__all__ = ["CohortDistances", "cohort_distances"]

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.covariance import LedoitWolf
from sklearn.model_selection import KFold

from brainfeat.evaluation.ridge import standard_deviation
from brainfeat.exceptions import InputError

Floats = NDArray[np.float64]

_N_FOLDS = 5
_MIN_ROWS = 10
_LIMIT = 3.5  # robust standard scores, as Iglewicz and Hoaglin advise


class CohortDistances(NamedTuple):
    """Distance of each row to a cohort, and its robust standard score."""

    distance: Floats  # n_rows: Mahalanobis, over the square root of n_features
    score: Floats  # n_rows: of the log of the distance, among the cohort's own rows

    @property
    def is_outlier(self) -> NDArray[np.bool_]:
        """Rows that lie more than 3.5 robust standard deviations out."""
        return np.asarray(self.score > _LIMIT)


def cohort_distances(X: ArrayLike, reference: Any = None) -> CohortDistances:
    """Mahalanobis distances to a cohort, with a shrunk covariance [1]_.

    Parameters
    ----------
    X : array-like of shape (n_rows, n_features)
        Rows to compare.
    reference : array-like of shape (n_reference, n_features), optional
        The cohort, such as the training subjects of a classifier. By default ``X``
        itself, each row compared with the other rows.

    Returns
    -------
    CohortDistances
        Distances, and their robust standard scores.

    Raises
    ------
    InputError
        If the cohort has fewer than ten rows, or the numbers of features differ.

    References
    ----------
    .. [1] Ledoit & Wolf, "A well-conditioned estimator for large-dimensional
       covariance matrices", Journal of Multivariate Analysis 88, 2004.
       doi:10.1016/S0047-259X(03)00096-4
    """
    rows = np.asarray(X, dtype=np.float64)
    cohort = rows if reference is None else np.asarray(reference, dtype=np.float64)
    is_comparable = cohort.ndim == 2 and rows.shape[1:] == cohort.shape[1:]
    if not is_comparable or len(cohort) < _MIN_ROWS:
        raise InputError(
            f"expected a cohort of at least {_MIN_ROWS} rows, and rows of as many "
            f"features, got shapes {cohort.shape} and {rows.shape}."
        )
    # In folds: a row used for the covariance is never far from it.
    own = np.empty(len(cohort))
    folds = KFold(_N_FOLDS, shuffle=True, random_state=0)
    for train, test in folds.split(cohort):
        own[test] = _distance(cohort[train], cohort[test])
    distance = own if reference is None else _distance(cohort, rows)
    center = np.median(np.log(own))
    spread = 1.4826 * np.median(np.abs(np.log(own) - center))
    score = (np.log(distance) - center) / max(spread, 1e-12)
    return CohortDistances(distance, score)


def _distance(cohort: Floats, rows: Floats) -> Floats:
    mean, scale = cohort.mean(axis=0), standard_deviation(cohort)
    model = LedoitWolf().fit((cohort - mean) / scale)
    squared = model.mahalanobis((rows - mean) / scale)
    return np.asarray(np.sqrt(np.maximum(squared, 1e-24) / rows.shape[1]))
