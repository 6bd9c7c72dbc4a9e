"""Shrunk covariance of rows, in which each subject counts once."""

__all__ = ["SubjectCovariance", "subject_weights"]

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from brainfeat.evaluation.ridge import ROUNDING

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


def subject_weights(groups: Rows) -> Floats:
    """Return weights of rows (n_rows,) that sum to one, as much for each subject."""
    _, members, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / (counts[members] * len(counts)))


@dataclass(frozen=True, eq=False)
class SubjectCovariance:
    """Mean, scale, and shrunk inverse covariance of standardised rows."""

    mean: Floats  # n_features
    scale: Floats  # n_features
    factor: tuple[Floats, bool]  # Cholesky factor of the covariance
    shrinkage: float

    @classmethod
    def fit(cls, rows: Floats, groups: Rows) -> "SubjectCovariance":
        """Shrink as Ledoit and Wolf do; the independent draws are subjects, not rows.

        With one row a subject this is `sklearn.covariance.LedoitWolf` of standardised
        rows. Repeats of a subject are no further draws: taken as such, they would
        shrink too little.
        """
        weights = subject_weights(groups)
        mean = weights @ rows
        centred = rows - mean
        scale = np.sqrt(weights @ np.square(centred))
        sizes = np.abs(rows).max(axis=0)
        standard = centred / np.where(scale > ROUNDING * sizes, scale, 1.0)
        covariance = (standard * weights[:, None]).T @ standard
        n_features = rows.shape[1]
        level = float(np.trace(covariance)) / n_features
        squares = float(np.square(covariance).sum())
        distance = squares - n_features * level**2  # to the multiple of the identity
        error = _squared_terms(standard, weights, groups) - squares / len(set(groups))
        shrinkage = 0.0 if distance <= 0.0 else min(error / distance, 1.0)
        mixed = (1.0 - shrinkage) * covariance
        mixed[np.diag_indices(n_features)] += shrinkage * level
        # A constant feature, or no shrinkage, must not make it singular.
        mixed[np.diag_indices(n_features)] += ROUNDING * max(level, ROUNDING)
        scale = np.where(scale > ROUNDING * sizes, scale, 1.0)
        return cls(mean, scale, cho_factor(mixed, lower=True), shrinkage)

    def distance(self, rows: Floats) -> Floats:
        """Mahalanobis distances (n_rows,), over the square root of n_features."""
        standard = (rows - self.mean) / self.scale
        solved = cho_solve(self.factor, standard.T)
        squared = np.einsum("ij,ji->i", standard, solved)
        return np.asarray(np.sqrt(np.maximum(squared, 1e-24) / rows.shape[1]))


def _squared_terms(standard: Floats, weights: Floats, groups: Rows) -> float:
    """Sum the squared norms of the part of each subject in the covariance."""
    # The part of a subject is the sum of w x x' over rows: its squared norm is that of
    # the weighted products of all pairs of rows.
    lengths = np.square(standard).sum(axis=1)
    total = float(np.square(weights * lengths).sum())
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    for rows in np.split(order, starts[1:]):
        if len(rows) > 1:
            own = standard[rows]
            products = weights[rows[0]] ** 2 * np.square(own @ own.T)
            total += float(products.sum() - np.trace(products))
    return total
