"""What held-out predictions tell beside their score: intervals, curves, baselines."""

__all__ = ["describe_predictions"]

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from brainfeat.evaluation.bias import measure_bias
from brainfeat.evaluation.cross_validation import CrossValidation, calibrate
from brainfeat.evaluation.drawn_scores import (
    ScoreDraws,
    score_baselines,
    summarise_scores,
)
from brainfeat.evaluation.folds import Fold
from brainfeat.evaluation.labelled import LabelledFeatures
from brainfeat.evaluation.rates import rates_at, roc_curve
from brainfeat.evaluation.scores import Score


def describe_predictions(
    data: LabelledFeatures,
    naive: CrossValidation,
    repeats: Sequence[Sequence[Fold]],
    baselines: pd.DataFrame | None,
    threshold: float,
    n_bootstraps: int,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """Return the fields of `ProbeEvaluation` that follow from the predictions."""
    draws = ScoreDraws.draw(data, naive.predictions, repeats, n_bootstraps, seed)
    fields: dict[str, Any] = {
        "labels": data.labels,
        "groups": data.groups,
        "scores": summarise_scores(draws, confidence),
        "confidence": confidence,
    }
    if baselines is not None:
        fields["baselines"] = score_baselines(draws, baselines, confidence)
    if not data.classes:
        shared = repeats, draws.weights, confidence, seed
        return fields | _name_numbers(naive) | {"bias": measure_bias(data, *shared)}
    return fields | _name_classes(data, naive, threshold, confidence)


def _name_numbers(naive: CrossValidation) -> dict[str, Any]:
    scores = naive.scores
    return {
        "auc": Score(np.nan, np.nan),
        "r2": scores["R2"],
        "mae": scores["MAE"],
        "r": scores["r"],
        "predictions": np.mean([p.decided for p in naive.predictions], axis=0),
        "calibration": None,
    }


def _name_classes(
    data: LabelledFeatures, naive: CrossValidation, threshold: float, confidence: float
) -> dict[str, Any]:
    names = data.classes
    codes, shape = data.labels.astype(np.intp), (len(names),) * 2
    confusion = np.zeros(shape)
    for predicted in naive.predictions:
        weight = 1.0 / len(naive.predictions)
        np.add.at(confusion, (codes, predicted.decided), weight)
    probabilities = naive.probabilities
    point = None
    if data.task.is_binary:
        known = codes == 1, probabilities, data.groups
        point = rates_at(threshold, *known, confidence)
        columns = {names[1]: (codes == 1, probabilities)}
    else:
        columns = {n: (codes == i, probabilities[:, i]) for i, n in enumerate(names)}
    calibrations = tuple(calibrate(*column) for column in columns.values())
    return {
        "auc": naive.scores["AUC"],
        "balanced_accuracy": naive.scores["balanced accuracy"],
        "confusion": confusion,
        "roc": tuple(roc_curve(name, *column) for name, column in columns.items()),
        "calibrations": calibrations,
        "calibration": calibrations[0] if data.task.is_binary else None,
        "operating_point": point,
    }
