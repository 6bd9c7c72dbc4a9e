"""Scores of drawn subjects, and of baselines on the same draws."""

__all__ = [
    "ScoreDraws",
    "check_baselines",
    "check_draws",
    "score_baselines",
    "score_draws",
    "summarise_scores",
]

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainfeat.configs import is_integer
from brainfeat.evaluation.columns import Encoding, check_order
from brainfeat.evaluation.cross_validation import predict_held_out
from brainfeat.evaluation.folds import Fold, number_folds
from brainfeat.evaluation.labelled import LabelledFeatures
from brainfeat.evaluation.resampling import (
    draw_subjects,
    inflate,
    summarise_draws,
)
from brainfeat.evaluation.tasks import LIMITS, Predictions
from brainfeat.exceptions import ConfigError, InputError

Floats = NDArray[np.float64]

_NUMBERS_AT_ONCE = 20_000_000  # weights that are scored together, which limits memory


def check_draws(n_bootstraps: int, confidence: float, threshold: float) -> None:
    """Check the settings of intervals and decisions."""
    if not is_integer(n_bootstraps, at_least=1):
        raise ConfigError(
            f"expected at least one bootstrap, got n_bootstraps={n_bootstraps!r}."
        )
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"confidence: expected a number in (0, 1), got {confidence}.")
    if not 0.0 <= threshold <= 1.0:
        raise ConfigError(f"threshold: expected a number in [0, 1], got {threshold}.")


def check_baselines(baselines: Any, X: Any, n_rows: int) -> pd.DataFrame | None:
    """Return baselines as columns, one row as in X; None without any."""
    if baselines is None:
        return None
    check_order(X, baselines=baselines)
    table = pd.DataFrame(baselines)
    if len(table) != n_rows or not table.shape[1]:
        raise InputError(
            f"baselines: expected columns of {n_rows} rows, got shape {table.shape}."
        )
    for name, values in table.items():
        if values.isna().all():
            raise InputError(f"baselines: expected values of {name}, got none.")
    return table


def score_draws(
    data: LabelledFeatures,
    predictions: Sequence[Predictions],
    repeats: Sequence[Sequence[Fold]],
    weights: Floats,
) -> dict[str, Floats]:
    """Score weightings of rows (n_weightings,) by each metric, mean over repeats."""
    n_batches = -(-weights.size // _NUMBERS_AT_ONCE)
    batches = np.array_split(weights, min(n_batches, len(weights)))
    sums = dict.fromkeys(data.task.metrics, np.zeros(len(weights)))
    for folds, predicted in zip(repeats, predictions, strict=True):
        blocks = data.task.blocks(number_folds(folds), None)
        values = [
            data.task.measure(data.labels, predicted, blocks, batch)
            for batch in batches
        ]
        for metric, total in sums.items():
            sums[metric] = total + np.concatenate([v[metric] for v in values])
    return {metric: total / len(repeats) for metric, total in sums.items()}


class ScoreDraws(NamedTuple):
    """Scores of the data and of drawn subjects, by metric (1 + n_draws,)."""

    data: LabelledFeatures
    repeats: Sequence[Sequence[Fold]]
    weights: Floats  # 1 + n_draws, n_rows: the first row is of ones
    scores: Mapping[str, Floats]
    seed: int

    @classmethod
    def draw(
        cls,
        data: LabelledFeatures,
        predictions: Sequence[Predictions],
        repeats: Sequence[Sequence[Fold]],
        n_draws: int,
        seed: int,
    ) -> "ScoreDraws":
        """Draw subjects in the strata of their classes."""
        strata = data.task.strata(data.labels)
        weights = draw_subjects(data.groups, strata, n_draws, seed)
        weights = np.vstack([np.ones(len(strata)), weights])
        scores = score_draws(data, predictions, repeats, weights)
        return cls(data, repeats, weights, scores, seed)

    def of_features(self, features: Floats) -> Mapping[str, Floats]:
        """Score other features of the same rows, by the same folds and draws."""
        data = replace(self.data, features=features)
        predictions = [
            predict_held_out(data, "features", folds, self.seed)
            for folds in self.repeats
        ]
        return score_draws(data, predictions, self.repeats, self.weights)

    def interval(self, drawn: Floats, metric: str, confidence: float) -> list[float]:
        """Return the score of the data, and the ends of its interval."""
        value = float(drawn[0])
        widened = inflate(drawn[1:], value, len(self.repeats[0]))
        widened = np.clip(widened, *LIMITS[metric])
        return list(summarise_draws(widened, value, confidence)[:3])


def summarise_scores(draws: ScoreDraws, confidence: float) -> pd.DataFrame:
    """Return each metric with the ends of its interval over subjects."""
    lines = [
        (metric, *draws.interval(drawn, metric, confidence))
        for metric, drawn in draws.scores.items()
    ]
    return pd.DataFrame(lines, columns=["metric", "value", "low", "high"])


def score_baselines(
    draws: ScoreDraws, baselines: pd.DataFrame, confidence: float
) -> pd.DataFrame:
    """Score each column by the probe, and all of them, beside the features."""
    encoded = {str(n): _encode(baselines[[n]]) for n in baselines.columns}
    if len(encoded) > 1:
        encoded["all of these"] = np.hstack(list(encoded.values()))
    metric = draws.data.task.metrics[0]
    ours = draws.scores[metric]
    lowest, highest = LIMITS[metric]
    lines = []
    for name, numbers in encoded.items():
        theirs = draws.of_features(numbers)[metric]
        gain = float(ours[0] - theirs[0])
        widened = inflate(ours[1:] - theirs[1:], gain, len(draws.repeats[0]))
        widened = np.clip(widened, lowest - highest, highest - lowest)
        difference = summarise_draws(widened, gain, confidence)
        interval = draws.interval(theirs, metric, confidence)
        lines.append((name, metric, *interval, *difference))
    columns = ["baseline", "metric", "value", "low", "high"]
    columns += ["difference", "difference_low", "difference_high", "p"]
    return pd.DataFrame(lines, columns=columns)


def _encode(column: pd.DataFrame) -> Floats:
    """Encode one column as numbers; missing values are a category of their own."""
    values: pd.Series[Any] = column.iloc[:, 0].astype(object).infer_objects()
    is_missing = values.isna().to_numpy(dtype=np.bool_)
    if not pd.api.types.is_numeric_dtype(values.dtype):
        texts = values.where(~is_missing, "missing").map(str).to_frame()
        return Encoding.learn(texts).apply(texts)
    numbers = values.to_numpy(dtype=np.float64)
    if np.isinf(numbers).any():
        raise InputError(f"baselines: expected finite numbers of {values.name}.")
    filled = np.where(is_missing, np.mean(numbers[~is_missing]), numbers)
    columns = [filled, is_missing] if is_missing.any() else [filled]
    return np.column_stack(columns).astype(np.float64)
