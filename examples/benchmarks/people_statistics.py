"""Statistics of people: distances, retrieval, agreement; intervals over people."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[Any]
_N_DRAWS = 2000
_TAILS = (0.025, 0.975)


class Interval(NamedTuple):
    """An estimate with its 95 % interval over people."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


class Agreement(NamedTuple):
    """How predicted volumes follow true ones."""

    spearman: Interval
    slope: Interval  # of the prediction on the truth
    ratio: float  # median of prediction over truth


def cosine_distances(first: Floats, second: Floats) -> Floats:
    """Return 1 - cosine of each row of one table to each of another."""
    return 1.0 - _unit(first) @ _unit(second).T


def median_between(rows: Floats) -> float:
    """Return the median of 1 - cosine between the rows of different people."""
    distances = cosine_distances(rows, rows)
    return float(np.median(distances[np.triu_indices(len(rows), 1)]))


def relative_changes(original: Floats, changed: Floats, between: float) -> Floats:
    """Return 1 - cosine of each row to its changed one, over that between people."""
    inner = (_unit(original) * _unit(changed)).sum(axis=1)
    return np.asarray((1.0 - inner) / between)


def standardise(rows: Floats, reference: Floats) -> Floats:
    """Centre and scale features by those of reference people."""
    scale = reference.std(axis=0)
    return np.asarray((rows - reference.mean(axis=0)) / np.where(scale > 0, scale, 1))


def count_found(queries: Floats, candidates: Floats, matches: NDArray[Any]) -> int:
    """Count queries whose nearest candidate by cosine is the one that matches."""
    nearest = cosine_distances(queries, candidates).argmin(axis=1)
    return int((nearest == matches).sum())


def measure_agreement(predicted: Floats, true: Floats, seed: int = 0) -> Agreement:
    """Compare the volumes of one structure in several people."""
    n_people = len(true)
    draws = np.random.default_rng(seed).integers(n_people, size=(_N_DRAWS, n_people))
    rows = np.vstack([np.arange(n_people), draws])
    found, truth = predicted[rows], true[rows]
    with np.errstate(invalid="ignore", divide="ignore"):
        ranks = (rankdata(found, axis=1), rankdata(truth, axis=1))
        spearman = _covariance(*ranks) / np.sqrt(
            _covariance(ranks[0], ranks[0]) * _covariance(ranks[1], ranks[1])
        )
        slope = _covariance(found, truth) / _covariance(truth, truth)
        ratio = float(np.median(predicted / true))
    return Agreement(summarise(spearman), summarise(slope), ratio)


def summarise(draws: Floats) -> Interval:
    """Return the first value with the percentile interval of the others."""
    if np.isnan(draws[1:]).all():
        return Interval(float(draws[0]), np.nan, np.nan)
    low, high = np.nanquantile(draws[1:], _TAILS)
    return Interval(float(draws[0]), float(low), float(high))


def _unit(rows: Floats) -> Floats:
    rows = np.asarray(rows, dtype=np.float64)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _covariance(first: Floats, second: Floats) -> Floats:
    """Sum of products of deviations from the means of rows."""
    one = first - first.mean(axis=1, keepdims=True)
    other = second - second.mean(axis=1, keepdims=True)
    return np.asarray((one * other).sum(axis=1))
