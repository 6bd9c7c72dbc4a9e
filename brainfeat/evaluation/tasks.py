"""What a probe reads from features: classes or numbers."""

__all__ = [
    "LIMITS",
    "ClassTask",
    "Kind",
    "NumberTask",
    "Predictions",
    "Task",
    "read_labels",
]

import warnings
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from brainfeat.evaluation.classes import choose_positive
from brainfeat.evaluation.columns import as_codes
from brainfeat.evaluation.measures import (
    weighted_accuracy,
    weighted_auc,
    weighted_correlation,
    weighted_error,
    weighted_r2,
)
from brainfeat.evaluation.ridge import pair_auc
from brainfeat.exceptions import ConfigError, InputError

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Labels = NDArray[Any]

Kind = Literal["auto", "binary", "classes", "numbers"]
# The least and the largest value of each metric.
LIMITS = {
    "AUC": (0.0, 1.0),
    "balanced accuracy": (0.0, 1.0),
    "R2": (-np.inf, 1.0),
    "MAE": (0.0, np.inf),
    "r": (-1.0, 1.0),
}

_MOST_CLASSES = 10  # of whole numbers; more of them are a quantity, such as age
_N_LEVELS = 4


class Predictions(NamedTuple):
    """Held-out predictions of rows."""

    scores: Floats  # n_rows n_outputs: to rank rows by, or the predicted number
    probabilities: Floats  # n_rows n_classes; no columns for numbers
    decided: Labels  # n_rows: the predicted class or number


@dataclass(frozen=True)
class ClassTask:
    """Reading one of several classes; of two, the second is positive.

    Labels are codes of the classes, or flags if there are two.
    """

    classes: tuple[str, ...]

    metrics = ("AUC", "balanced accuracy")

    @property
    def is_binary(self) -> bool:
        """Whether there are two classes."""
        return len(self.classes) == 2

    @property
    def chance(self) -> dict[str, float]:
        """Scores of guessing."""
        return {"AUC": 0.5, "balanced accuracy": 1.0 / len(self.classes)}

    def strata(self, labels: Labels) -> Rows:
        """Codes that folds and draws are stratified by."""
        return labels.astype(np.intp)

    levels = strata

    def blocks(self, folds: Rows, site: Rows | None) -> Rows:
        """Rows that are compared: of one test fold, and of one site if given."""
        # Scores of different folds come from different fits.
        return folds if site is None else folds * (site.max() + 1) + site

    def is_scorable(self, levels: Rows) -> bool:
        """Whether these levels have all classes."""
        return len(np.unique(levels)) == len(self.classes)

    def encode(self, labels: Labels) -> Floats:
        """Encode labels (n_rows, n_labelings) to (n_rows, n_labelings, n_outputs)."""
        if self.is_binary:
            return np.where(labels, 1.0, -1.0)[:, :, None]
        is_class = labels[:, :, None] == np.arange(len(self.classes))
        return np.where(is_class, 1.0, -1.0)

    def rank(self, held_out: Floats, labels: Labels, scores: Floats) -> Floats:
        """Return the scores (n_test, n_labelings, n_outputs) that rank rows.

        ``held_out`` are the scores of training rows by folds that held them out.
        """
        if self.is_binary:
            return scores
        # One-vs-rest ridge hardly sees a class that lies between two others.
        columns = [
            self.calibrate(held_out[:, i], labels[:, i], scores[:, i])
            for i in range(labels.shape[1])
        ]
        return np.stack(columns, axis=1)

    def predict(self, held_out: Floats, labels: Labels, scores: Floats) -> Predictions:
        """Return the predictions of test rows from scores (n_test, n_outputs)."""
        probabilities = self.calibrate(held_out, labels, scores)
        counts = np.bincount(labels.astype(np.intp), minlength=len(self.classes))
        # As if all classes were equally frequent, which balanced accuracy is of.
        decided = (probabilities / np.maximum(counts, 1)).argmax(axis=1)
        ranked = scores if self.is_binary else probabilities
        return Predictions(ranked, probabilities, decided)

    def calibrate(self, held_out: Floats, labels: Labels, scores: Floats) -> Floats:
        """Turn scores into probabilities (n_test, n_classes)."""
        codes = labels.astype(np.intp)
        penalty = np.inf if self.is_binary else 1.0  # one-vs-rest scores are redundant
        model = LogisticRegression(C=penalty, max_iter=1000)
        with warnings.catch_warnings():
            # Of separated classes, the slope has no upper limit.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(held_out, codes)
        probabilities = np.zeros((len(scores), len(self.classes)))
        probabilities[:, model.classes_] = model.predict_proba(scores)
        return probabilities

    def score(self, labels: Labels, ranked: Floats, blocks: Rows) -> Floats:
        """AUC of each labeling (n_labelings,); of more than two, mean one-vs-rest."""
        if self.is_binary:
            return pair_auc(ranked[:, :, 0], labels, blocks)
        areas = [
            pair_auc(ranked[:, :, code], labels == code, blocks)
            for code in range(len(self.classes))
        ]
        return np.asarray(np.mean(areas, axis=0))

    def measure(
        self, labels: Labels, predicted: Predictions, blocks: Rows, weights: Floats
    ) -> dict[str, Floats]:
        """Return each metric for each weighting of the rows (n_weightings,)."""
        codes, n_classes = labels.astype(np.intp), len(self.classes)
        positives = (1,) if self.is_binary else range(n_classes)
        areas = [
            weighted_auc(predicted.scores[:, column], codes == code, blocks, weights)
            for column, code in enumerate(positives)
        ]
        accuracy = weighted_accuracy(predicted.decided, codes, n_classes, weights)
        return {"AUC": np.mean(areas, axis=0), "balanced accuracy": accuracy}


@dataclass(frozen=True)
class NumberTask:
    """Reading a number, such as age."""

    classes: tuple[str, ...] = ()

    metrics = ("R2", "MAE", "r")
    is_binary = False

    @property
    def chance(self) -> dict[str, float]:
        """Scores of guessing."""
        return {"R2": 0.0}

    def strata(self, labels: Labels) -> Rows:
        """One stratum: folds and draws are not stratified."""
        return np.zeros(len(labels), dtype=np.intp)

    def levels(self, labels: Labels) -> Rows:
        """Quarters of the numbers, to compare them with categories."""
        edges = np.quantile(labels, np.arange(1, _N_LEVELS) / _N_LEVELS)
        return np.searchsorted(edges, labels, side="left").astype(np.intp)

    def blocks(self, folds: Rows, site: Rows | None) -> Rows:
        """Rows that are compared: all, or those of one site."""
        return np.zeros_like(folds) if site is None else site

    def is_scorable(self, levels: Rows) -> bool:
        """Whether these levels differ."""
        return len(np.unique(levels)) > 1

    def encode(self, labels: Labels) -> Floats:
        """Return numbers (n_rows, n_labelings) as (n_rows, n_labelings, 1)."""
        return labels.astype(np.float64)[:, :, None]

    def rank(self, held_out: Floats, labels: Labels, scores: Floats) -> Floats:
        """Return the scores as they are."""
        return scores

    def predict(self, held_out: Floats, labels: Labels, scores: Floats) -> Predictions:
        """Return the predictions of test rows from scores (n_test, 1)."""
        return Predictions(scores, np.empty((len(scores), 0)), scores[:, 0])

    def score(self, labels: Labels, ranked: Floats, blocks: Rows) -> Floats:
        """R2 of each labeling (n_labelings,)."""
        one = np.ones((1, len(labels)))
        columns = zip(ranked[:, :, 0].T, labels.T, strict=True)
        return np.array([weighted_r2(p, y, blocks, one)[0] for p, y in columns])

    def measure(
        self, labels: Labels, predicted: Predictions, blocks: Rows, weights: Floats
    ) -> dict[str, Floats]:
        """Return each metric for each weighting of the rows (n_weightings,)."""
        found = predicted.decided
        return {
            "R2": weighted_r2(found, labels, blocks, weights),
            "MAE": weighted_error(found, labels, weights),
            "r": weighted_correlation(found, labels, weights),
        }


Task = ClassTask | NumberTask


def read_labels(
    y: Any, n_rows: int, *, kind: Kind = "auto", pos_label: Any = None
) -> tuple[Labels, Task]:
    """Read labels as flags of two classes, codes of more, or numbers."""
    if kind not in get_args(Kind):
        kinds = ", ".join(get_args(Kind))
        raise ConfigError(f"task: expected one of {kinds}, got {kind!r}.")
    codes, names = as_codes("y", y, n_rows)
    numbers = _read_numbers(y) if kind in {"auto", "numbers"} else None
    if kind == "numbers" and numbers is None:
        raise InputError(f"y: expected numbers, got {_show(names)}.")
    if numbers is not None and (kind == "numbers" or _is_quantity(numbers)):
        task: Task = NumberTask()
        _check(task, kind, names, pos_label)
        return numbers, task
    task = ClassTask(names)
    _check(task, kind, names, pos_label)
    if not task.is_binary:
        return codes, task
    positive = choose_positive(names, pos_label)
    return codes == positive, ClassTask((names[1 - positive], names[positive]))


def _check(task: Task, kind: Kind, names: tuple[str, ...], pos_label: Any) -> None:
    if kind == "binary" and not task.is_binary:
        raise InputError(f"y: expected two classes, got {len(names)}.")
    if len(names) < 2:
        what = "classes" if task.classes else "different numbers"
        raise InputError(f"y: expected at least two {what}, got {len(names)}.")
    if pos_label is not None and not task.is_binary:
        what = f"{len(names)}: {_show(names)}" if task.classes else "numbers"
        raise InputError(f"pos_label: expected a y of two classes, got {what}.")


def _read_numbers(y: Any) -> Floats | None:
    """Return the values if all are numbers, else None."""
    values = pd.Series(list(y), dtype=object)
    if any(isinstance(v, bool | np.bool_) or not isinstance(v, Real) for v in values):
        return None
    numbers = values.to_numpy(dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise InputError("y: expected finite numbers, got infinite ones.")
    return numbers


def _is_quantity(numbers: Floats) -> bool:
    different = np.unique(numbers)
    has_fractions = bool((different != np.round(different)).any())
    return (has_fractions and len(different) > 2) or len(different) > _MOST_CLASSES


def _show(names: tuple[str, ...]) -> str:
    more = "" if len(names) <= 4 else f" and {len(names) - 4} more"
    return ", ".join(names[:4]) + more
