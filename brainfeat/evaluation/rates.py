"""Rates of right decisions: ROC curves, and sensitivity at a threshold."""

__all__ = ["OperatingPoint", "RocCurve", "rates_at", "roc_curve"]

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from brainfeat.evaluation.estimates import Estimate
from brainfeat.exceptions import ConfigError

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Rows = NDArray[np.intp]


class OperatingPoint(NamedTuple):
    """Decisions for the positive class from a probability on.

    Attributes
    ----------
    threshold : float
        Least probability of the positive class that decides for it.
    sensitivity, specificity : Estimate
        Fractions of the positive and the other rows that are decided right.
    n_positive, n_negative : int
        Rows of the positive and of the other class.
    """

    threshold: float
    sensitivity: Estimate
    specificity: Estimate
    n_positive: int
    n_negative: int

    def __str__(self) -> str:
        return (
            f"at probability {self.threshold:g}: sensitivity {self.sensitivity}, "
            f"specificity {self.specificity}"
        )


class RocCurve(NamedTuple):
    """ROC curve of one class against the others.

    Attributes
    ----------
    label : str
        The class.
    false_positive_rate, true_positive_rate : ndarray of shape (n_thresholds,)
        Rising from 0 to 1.
    thresholds : ndarray of shape (n_thresholds,)
        Falling probabilities, of which the first is infinite.
    """

    label: str
    false_positive_rate: Floats
    true_positive_rate: Floats
    thresholds: Floats


def roc_curve(label: str, is_class: Flags, probabilities: Floats) -> RocCurve:
    """Compute the rates at each different probability."""
    order = np.argsort(-probabilities, kind="stable")
    ranked, hits = probabilities[order], is_class[order]
    ends = np.flatnonzero(np.append(np.diff(ranked) != 0, True))
    right, wrong = np.cumsum(hits)[ends], np.cumsum(~hits)[ends]
    start = np.zeros(1)
    return RocCurve(
        label,
        np.concatenate([start, wrong / wrong[-1]]),
        np.concatenate([start, right / right[-1]]),
        np.concatenate([[np.inf], ranked[ends]]),
    )


def rates_at(
    threshold: float,
    is_positive: Flags,
    probabilities: Floats,
    groups: Rows,
    confidence: float,
) -> OperatingPoint:
    """Compute sensitivity and specificity with Wilson's intervals over subjects."""
    if not 0.0 <= threshold <= 1.0:
        raise ConfigError(f"threshold: expected a number in [0, 1], got {threshold}.")
    decided = probabilities >= threshold
    sensitivity, specificity = (
        _proportion(decided[rows] == is_positive[rows], groups[rows], confidence)
        for rows in (is_positive, ~is_positive)
    )
    n_positive = int(is_positive.sum())
    n_negative = len(is_positive) - n_positive
    rates = sensitivity, specificity
    return OperatingPoint(float(threshold), *rates, n_positive, n_negative)


def _proportion(is_right: Flags, groups: Rows, confidence: float) -> Estimate:
    """Proportion of rows with Wilson's interval for as many independent rows.

    With one row a subject these are the rows: Wilson, Journal of the American
    Statistical Association 22, 1927. Repeats of a subject agree, which widens the
    variance: Korn & Graubard, Survey Methodology 24, 1998.
    """
    n_rows, value = len(is_right), float(is_right.mean())
    _, members = np.unique(groups, return_inverse=True)
    sums = np.bincount(members, weights=is_right - value)
    variance = float(np.square(sums).sum()) / n_rows**2
    n_effective = float(members.max() + 1)  # if all are right or none
    if 0.0 < value < 1.0:
        even = value * (1.0 - value)
        n_effective = even / max(variance, even / n_rows)
    z = float(norm.ppf((1.0 + confidence) / 2.0))
    factor = 1.0 + z**2 / n_effective
    center = (value + z**2 / (2.0 * n_effective)) / factor
    spread = value * (1.0 - value) / n_effective + z**2 / (4.0 * n_effective**2)
    half = z * np.sqrt(spread) / factor
    return Estimate(value, max(center - half, 0.0), min(center + half, 1.0))
