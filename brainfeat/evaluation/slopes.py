"""Lines over time within subjects, and their mean over subjects."""

__all__ = ["Lines", "MeanSlope", "fit_lines", "mean_slope", "pooled_noise"]

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


class Lines(NamedTuple):
    """Least-squares lines of subjects, for each column."""

    slopes: Floats  # n_subjects n_columns
    spread: Floats  # n_subjects: sum of squared deviations of the times
    residual: Floats  # n_columns: sum of squared residuals of all lines
    n_free: int  # degrees of freedom of the residuals


class MeanSlope(NamedTuple):
    """Mean slope of subjects, with Student's interval, for each column."""

    value: Floats
    standard_error: Floats
    low: Floats
    high: Floats
    p_value: Floats
    deviation: Floats  # between subjects, without noise


def fit_lines(subjects: Rows, years: Floats, values: Floats) -> Lines:
    """Fit a line to the rows of each subject, who needs two different times."""
    _, codes = np.unique(subjects, return_inverse=True)
    counts = np.bincount(codes)[:, None]
    times = years - _sum(codes, years[:, None])[codes, 0] / counts[codes, 0]
    centred = values - (_sum(codes, values) / counts)[codes]
    spread = _sum(codes, np.square(times)[:, None])[:, 0]
    slopes = _sum(codes, times[:, None] * centred) / spread[:, None]
    residual = np.square(centred - times[:, None] * slopes[codes]).sum(axis=0)
    return Lines(slopes, spread, residual, len(years) - 2 * len(counts))


def pooled_noise(visits: Rows, values: Floats) -> tuple[Floats, int]:
    """Variance of repeats within visits (n_columns,), and its degrees of freedom."""
    _, codes = np.unique(visits, return_inverse=True)
    counts = np.bincount(codes)[:, None]
    centred = values - (_sum(codes, values) / counts)[codes]
    n_free = len(values) - len(counts)
    squares = np.square(centred).sum(axis=0)
    return squares / n_free if n_free else np.full(values.shape[1], np.nan), n_free


def mean_slope(lines: Lines, noise: Floats | None, confidence: float) -> MeanSlope:
    """Average the slopes of subjects, weighted by what noise leaves of them.

    Slopes vary between subjects and by noise: DerSimonian & Laird, Controlled Clinical
    Trials 7, 1986. The variance of the mean is that of Hartung & Knapp, Statistics in
    Medicine 20, 2001, which holds for few subjects. Without known noise all subjects
    have one weight, as in a t-test.
    """
    slopes, n = lines.slopes, len(lines.slopes)
    weights = np.ones_like(slopes)
    between = slopes.var(axis=0, ddof=1)
    if noise is not None:
        with np.errstate(divide="ignore"):
            precise = lines.spread[:, None] / np.maximum(noise, 1e-300)
        fixed = (precise * slopes).sum(axis=0) / precise.sum(axis=0)
        excess = (precise * np.square(slopes - fixed)).sum(axis=0) - (n - 1)
        total = precise.sum(axis=0)
        scale = total - np.square(precise).sum(axis=0) / total
        between = np.maximum(excess / scale, 0.0)
        weights = 1.0 / (between + noise / lines.spread[:, None])
        weights = np.where(np.isfinite(weights), weights, 1.0)
    total = weights.sum(axis=0)
    value = (weights * slopes).sum(axis=0) / total
    squares = (weights * np.square(slopes - value)).sum(axis=0)
    error = np.sqrt(squares / ((n - 1) * total))
    half = student.ppf((1.0 + confidence) / 2.0, n - 1) * error
    ratio = np.full(len(value), np.nan)
    np.divide(np.abs(value), error, out=ratio, where=error > 0)
    p_value = 2.0 * student.sf(ratio, n - 1)
    deviation = np.sqrt(between)
    return MeanSlope(value, error, value - half, value + half, p_value, deviation)


def _sum(codes: Rows, values: Floats) -> Floats:
    """Sum rows (n_rows, n_columns) by code."""
    totals = np.zeros((codes.max() + 1, values.shape[1]))
    np.add.at(totals, codes, values)
    return totals
