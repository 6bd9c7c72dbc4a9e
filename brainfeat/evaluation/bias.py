"""Regression of predicted numbers towards their mean, and its correction."""

__all__ = ["measure_bias"]

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from brainfeat.evaluation.cross_validation import fit_fold
from brainfeat.evaluation.estimates import Estimate, PredictionBias
from brainfeat.evaluation.folds import Fold
from brainfeat.evaluation.labelled import LabelledFeatures
from brainfeat.evaluation.measures import weighted_slope
from brainfeat.evaluation.resampling import inflate, summarise_draws

Floats = NDArray[np.float64]


def measure_bias(
    data: LabelledFeatures,
    repeats: Sequence[Sequence[Fold]],
    weights: Floats,  # 1 + n_draws, n_rows: of drawn subjects; the first row is of ones
    confidence: float,
    seed: int,
) -> PredictionBias:
    """Measure the slope of errors, before and after its correction in each fold."""
    gaps, corrected = [], []
    for folds in repeats:
        gap, rest = np.empty(len(data.labels)), np.empty(len(data.labels))
        for train, test in folds:
            gap[test], rest[test] = _test_gap(data, (train, test), seed)
        gaps.append(gap)
        corrected.append(rest)
    gap, rest = np.mean(gaps, axis=0), np.mean(corrected, axis=0)
    slopes = []
    for errors in (gap, rest):
        drawn = weighted_slope(data.labels, errors, weights)
        value = float(drawn[0])
        widened = inflate(drawn[1:], value, len(repeats[0]))
        slopes.append(Estimate(*summarise_draws(widened, value, confidence)[:3]))
    before, after = slopes
    return PredictionBias(before, after, gap, rest)


def _test_gap(data: LabelledFeatures, fold: Fold, seed: int) -> tuple[Floats, Floats]:
    """Return the gap of test rows, and what is left of it after the correction."""
    train, test = fold
    known = data.labels[train]
    held_out, scores = fit_fold(
        data.task, data.features, known[:, None], data.groups, fold, seed
    )
    errors = held_out[:, 0, 0] - known
    one = np.ones((1, len(known)))
    # Undefined if all training subjects have one number.
    slope = float(np.nan_to_num(weighted_slope(known, errors, one)[0]))
    gap = scores[:, 0, 0] - data.labels[test]
    expected = errors.mean() + slope * (data.labels[test] - known.mean())
    return gap, gap - expected
