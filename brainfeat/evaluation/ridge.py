"""Ridge regression for many targets and penalties at once, and its AUC.

Tests compare the scores with those of scikit-learn's `Ridge`. That one would factorise
a training fold for each penalty, and check its input at each fit; `RidgeCV` chooses no
penalty per target with grouped folds.
"""

__all__ = [
    "PENALTIES",
    "ROUNDING",
    "count_wins",
    "pair_auc",
    "ridge_scores",
    "select_and_score",
    "standard_deviation",
]

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

ROUNDING = 1e-10  # upper limit of the relative rounding error of sums over many values
# In units of the mean squared length of a standardised row.
PENALTIES = (0.01, 0.1, 1.0, 10.0)


def ridge_scores(
    train: Floats, test: Floats, targets: Floats, penalties: Sequence[float] = PENALTIES
) -> Floats:
    """Fit ridge regression to standardised rows: (n_penalties, n_test, n_targets)."""
    mean, scale = train.mean(axis=0), standard_deviation(train)
    rows, others = (train - mean) / scale, (test - mean) / scale
    offset = targets.mean(axis=0)
    n_rows, n_features = rows.shape
    # The primal or the dual solution, whichever has the smaller matrix.
    if n_rows > n_features:
        kernel, answers = rows.T @ rows, rows.T @ (targets - offset)
    else:
        kernel, answers, others = rows @ rows.T, targets - offset, others @ rows.T
    ridge = n_features * np.eye(len(kernel))
    weights = [np.linalg.solve(kernel + p * ridge, answers) for p in penalties]
    return np.stack([others @ weight + offset for weight in weights])


def select_and_score(
    train: Floats, test: Floats, targets: Floats, inner: Sequence[tuple[Rows, Rows]]
) -> tuple[Floats, Floats]:
    """Select a penalty per target by inner folds, then fit all training rows.

    Returns predictions of test rows, and of training rows by folds that held them out.
    """
    held_out = np.zeros((len(PENALTIES), *targets.shape))
    for rows, others in inner:
        held_out[:, others] = ridge_scores(train[rows], train[others], targets[rows])
    errors = np.square(held_out - targets).mean(axis=1)  # n_penalties n_targets
    best = errors.argmin(axis=0)
    columns = np.arange(targets.shape[1])
    scores = ridge_scores(train, test, targets)
    return scores[best, :, columns].T, held_out[best, :, columns].T


def count_wins(scores: Floats, positive: NDArray[np.bool_]) -> Floats:
    """Count pairs in which the positive row has the higher score; ties count half.

    Scores are (..., n_rows, n_targets), `positive` the last two axes of that.
    """
    n_positive = positive.sum(axis=0)
    ranks = rankdata(scores, axis=-2)
    wins: Floats = (ranks * positive).sum(axis=-2) - n_positive * (n_positive + 1) / 2
    return wins


def pair_auc(scores: Floats, labels: NDArray[np.bool_], blocks: Rows) -> Floats:
    """AUC (n_targets,) over pairs of rows in one block; NaN without a pair."""
    # Scores of different folds come from different fits, and rows of different sites
    # differ in more than the label, so they are not compared.
    won, total = np.zeros(scores.shape[1]), np.zeros(scores.shape[1])
    for block in np.unique(blocks):
        rows = blocks == block
        positive = labels[rows]
        n_positive = positive.sum(axis=0)
        n_pairs = n_positive * (rows.sum() - n_positive)
        won += np.where(n_pairs > 0, count_wins(scores[rows], positive), 0.0)
        total += n_pairs
    auc = np.full(len(won), np.nan)
    np.divide(won, total, out=auc, where=total > 0)
    return auc


def standard_deviation(rows: NDArray[Any], axis: int = 0) -> Floats:
    """Compute standard deviations along a kept axis; 1 for constants."""
    # Divided by its rounding error, a constant would become as large as a feature.
    deviations = rows.std(axis=axis, keepdims=True)
    sizes = np.abs(rows).max(axis=axis, keepdims=True)
    return np.where(deviations > ROUNDING * sizes, deviations, 1.0)
