"""Bootstrap over subjects: weights of rows, intervals and p-values."""

__all__ = ["Interval", "adjust_by_holm", "draw_subjects", "inflate", "summarise_draws"]

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


class Interval(NamedTuple):
    """An estimate, its interval, and the p-value of its being zero."""

    value: float
    low: float
    high: float
    p_value: float


def draw_subjects(groups: Rows, strata: Rows, n_draws: int, seed: int) -> Floats:
    """Draw subjects with replacement: how often each row counts (n_draws, n_rows).

    A subject is drawn with all of its rows, in the stratum of its first one, so that
    each draw has as many subjects of a class.
    """
    generator = np.random.default_rng(seed)
    _, first, members = np.unique(groups, return_index=True, return_inverse=True)
    counts = np.zeros((n_draws, len(first)))
    for code in np.unique(strata[first]):
        chosen = np.flatnonzero(strata[first] == code)
        even = np.full(len(chosen), 1.0 / len(chosen))
        counts[:, chosen] = generator.multinomial(len(chosen), even, size=n_draws)
    return counts[:, members]


def inflate(draws: Floats, value: float, n_folds: int) -> Floats:
    """Centre draws on a cross-validated value, and widen them for shared training.

    Drawn subjects are tested by the same fits, but a fit depends on its subjects too,
    and those of different folds share most of them: Nadeau & Bengio, Machine Learning
    52, 2003. doi:10.1023/A:1024068626366. Their variance of a mean over folds,
    (1 / n_folds + n_test / n_train), in units of the first term:
    """
    factor = np.sqrt(1.0 + n_folds / (n_folds - 1.0))
    return np.asarray(value + factor * (draws - np.nanmean(draws)))


def summarise_draws(draws: Floats, value: float, confidence: float) -> Interval:
    """Percentile interval of draws, and twice the fraction beyond zero as p-value."""
    known = draws[~np.isnan(draws)]
    if np.isnan(value) or len(known) == 0:
        return Interval(value, np.nan, np.nan, np.nan)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(known, [tail, 1.0 - tail])
    n_beyond = min(int((known <= 0.0).sum()), int((known >= 0.0).sum()))
    p_value = min(1.0, 2.0 * (1 + n_beyond) / (1 + len(known)))
    return Interval(value, float(low), float(high), p_value)


def adjust_by_holm(p_values: Sequence[float]) -> Floats:
    """Adjust p-values for their number: Holm, Scandinavian Journal of Statistics 6."""
    given = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(len(given), np.nan)
    known = np.flatnonzero(~np.isnan(given))
    order = known[np.argsort(given[known], kind="stable")]
    steps = given[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
