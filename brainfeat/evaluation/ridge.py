"""A ridge probe, solved for many labels at once, and what its scores are worth."""

__all__ = ["PENALTIES", "pair_auc", "ridge_scores", "select_and_score"]

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from brainfeat.evaluation.spread import find_spread

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

# In units of the mean squared length of a standardised row.
PENALTIES = (0.01, 0.1, 1.0, 10.0)


def ridge_scores(
    train: Floats, test: Floats, targets: Floats, penalties: Sequence[float] = PENALTIES
) -> Floats:
    """Fit ridge regression on standardised features, and score test rows."""
    mean, scale = train.mean(axis=0), find_spread(train)
    rows, others = (train - mean) / scale, (test - mean) / scale
    offset = targets.mean(axis=0)
    n_rows, unit = rows.shape
    # The same answer by the smaller of two matrices: one of features, one of rows.
    if n_rows > unit:
        kernel, answers = rows.T @ rows, rows.T @ (targets - offset)
    else:
        kernel, answers, others = rows @ rows.T, targets - offset, others @ rows.T
    ridge = unit * np.eye(len(kernel))
    weights = [np.linalg.solve(kernel + p * ridge, answers) for p in penalties]
    return np.stack([others @ weight + offset for weight in weights])


def select_and_score(
    train: Floats, test: Floats, targets: Floats, inner: Sequence[tuple[Rows, Rows]]
) -> tuple[Floats, Floats]:
    """Choose a penalty by inner folds, then learn from all training rows."""
    held_out = np.zeros((len(PENALTIES), *targets.shape))
    for rows, others in inner:
        held_out[:, others] = ridge_scores(train[rows], train[others], targets[rows])
    errors = np.square(held_out - targets).mean(axis=1)  # L P
    best = errors.argmin(axis=0)
    problems = np.arange(targets.shape[1])
    scores = ridge_scores(train, test, targets)
    return scores[best, :, problems].T, held_out[best, :, problems].T


def pair_auc(scores: Floats, labels: NDArray[np.bool_], blocks: Rows) -> Floats:
    """Compute the chance that a positive row scores above a negative one."""
    won, total = np.zeros(scores.shape[1]), np.zeros(scores.shape[1])
    for block in np.unique(blocks):
        rows = blocks == block
        positive = labels[rows]
        n_positive = positive.sum(axis=0)
        n_pairs = n_positive * (rows.sum() - n_positive)
        ranks = rankdata(scores[rows], axis=0)
        wins = (ranks * positive).sum(axis=0) - n_positive * (n_positive + 1) / 2
        won += np.where(n_pairs > 0, wins, 0.0)
        total += n_pairs
    auc = np.full(len(won), np.nan)
    np.divide(won, total, out=auc, where=total > 0)
    return auc
