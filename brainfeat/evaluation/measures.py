"""Scores of held-out predictions, for many weightings of the rows at once.

A row of weights says how often each row counts: ones for the data themselves, and the
numbers of draws for a bootstrap sample of them.
"""

__all__ = [
    "weighted_accuracy",
    "weighted_auc",
    "weighted_correlation",
    "weighted_error",
    "weighted_r2",
    "weighted_slope",
]

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Flags = NDArray[np.bool_]


def weighted_auc(
    scores: Floats, positive: Flags, blocks: Rows, weights: Floats
) -> Floats:
    """AUC (n_weightings,) over pairs of rows in one block; NaN without a pair."""
    won, total = np.zeros(len(weights)), np.zeros(len(weights))
    for block in np.unique(blocks):
        rows = np.flatnonzero(blocks == block)
        rows = rows[np.argsort(scores[rows], kind="stable")]
        ranked, ours = scores[rows], weights[:, rows] * positive[rows]
        theirs = weights[:, rows] * ~positive[rows]
        below = np.cumsum(theirs, axis=1)
        below = np.pad(below, ((0, 0), (1, 0)))
        # A tie is half a win: the mean of what lies below, with and without it.
        ends = (np.searchsorted(ranked, ranked, side) for side in ("left", "right"))
        won += sum((ours * below[:, end]).sum(axis=1) for end in ends) / 2.0
        total += ours.sum(axis=1) * theirs.sum(axis=1)
    return _divide(won, total)


def weighted_accuracy(
    predicted: Rows, labels: Rows, n_classes: int, weights: Floats
) -> Floats:
    """Balanced accuracy (n_weightings,): mean recall of the classes that occur."""
    is_class = labels[:, None] == np.arange(n_classes)  # n_rows n_classes
    is_right = is_class & (predicted == labels)[:, None]
    recalls = _divide(weights @ is_right, weights @ is_class)
    known = ~np.isnan(recalls)
    totals = np.where(known, recalls, 0.0).sum(axis=1)
    return _divide(totals, known.sum(axis=1).astype(np.float64))


def weighted_error(predicted: Floats, values: Floats, weights: Floats) -> Floats:
    """Mean absolute error (n_weightings,)."""
    return _divide(weights @ np.abs(predicted - values), weights.sum(axis=1))


def weighted_r2(
    predicted: Floats, values: Floats, blocks: Rows, weights: Floats
) -> Floats:
    """Fraction of the variance within blocks that is explained (n_weightings,).

    In several blocks, errors too are of deviations from the mean of the block.
    """
    codes = np.unique(blocks)
    left, total = np.zeros(len(weights)), np.zeros(len(weights))
    for block in codes:
        rows = blocks == block
        chosen, errors = weights[:, rows], (values - predicted)[rows]
        total += _sum_of_squares(values[rows], chosen)
        if len(codes) > 1:
            left += _sum_of_squares(errors, chosen)
        else:
            left += chosen @ np.square(errors)
    return 1.0 - _divide(left, total)


def weighted_correlation(predicted: Floats, values: Floats, weights: Floats) -> Floats:
    """Pearson's r (n_weightings,)."""
    first, second = predicted - predicted.mean(), values - values.mean()
    n = weights.sum(axis=1)
    shared = weights @ (first * second) - (weights @ first) * (weights @ second) / n
    spread = _sum_of_squares(first, weights) * _sum_of_squares(second, weights)
    return _divide(shared, np.sqrt(spread))


def weighted_slope(values: Floats, response: Floats, weights: Floats) -> Floats:
    """Least-squares slope (n_weightings,) of a response on values."""
    first, second = values - values.mean(), response - response.mean()
    n = weights.sum(axis=1)
    shared = weights @ (first * second) - (weights @ first) * (weights @ second) / n
    return _divide(shared, _sum_of_squares(first, weights))


def _sum_of_squares(values: Floats, weights: Floats) -> Floats:
    # Centred first, so that large means cost no digits.
    centred = values - values.mean()
    n = np.maximum(weights.sum(axis=1), 1e-300)
    squares = weights @ np.square(centred) - np.square(weights @ centred) / n
    return np.asarray(np.maximum(squares, 0.0))


def _divide(above: Floats, below: Floats) -> Floats:
    result = np.full(below.shape, np.nan)
    np.divide(above, below, out=result, where=below > 0)
    return result
