"""Probes of age and sex, cross-validated by the machinery of the library."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from people_statistics import Interval

from brainfeat.evaluation.folds import Fold, inner_folds, number_folds, repeat_folds
from brainfeat.evaluation.resampling import draw_subjects, inflate, summarise_draws
from brainfeat.evaluation.ridge import select_and_score
from brainfeat.evaluation.tasks import LIMITS, Predictions, Task, read_labels

Floats = NDArray[Any]
Rows = NDArray[np.intp]

N_REPEATS = 5
_N_DRAWS = 2000
_SEED = 0
_N_COMPONENTS = (8, 16, 32, 64)


class Question(NamedTuple):
    """What is read from the scan of each person."""

    labels: Floats
    task: Task
    metrics: tuple[str, ...]

    @classmethod
    def ask(cls, values: Sequence[Any], metrics: tuple[str, ...]) -> "Question":
        """Read labels as numbers or classes."""
        labels, task = read_labels(list(values), len(values))
        return cls(labels, task, metrics)


class Probe(Protocol):
    """A method that learns from some people, and predicts others."""

    name: str
    n_repeats: int

    def predict(self, question: Question, fold: Fold) -> Predictions:
        """Predict the test rows of a fold."""
        ...


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """The probe of `evaluate_probe`: ridge regression on standardised features."""

    name: str
    features: Floats
    n_repeats: int = N_REPEATS

    def predict(self, question: Question, fold: Fold) -> Predictions:
        """Predict the test rows of a fold."""
        train, test = fold
        return fit_ridge(question, train, self.features[train], self.features[test])[0]


@dataclass(frozen=True, eq=False)
class ComponentProbe:
    """The same on principal components of the training rows, by number of the best."""

    name: str
    features: Floats
    n_repeats: int = N_REPEATS

    @cached_property
    def _products(self) -> Floats:
        """Inner products of all rows: there are far fewer rows than features."""
        rows = self.features.astype(np.float64)
        rows -= rows.mean(axis=0)
        return np.asarray(rows @ rows.T)

    def predict(self, question: Question, fold: Fold) -> Predictions:
        """Predict the test rows of a fold."""
        train, test = fold
        rows, others = project(self._products, train, test)
        fits = [
            fit_ridge(question, train, rows[:, :n], others[:, :n])
            for n in _N_COMPONENTS
            if n <= rows.shape[1]
        ]
        return min(fits, key=lambda fit: fit[1])[0]


@dataclass(frozen=True, eq=False)
class MedianProbe:
    """The median of the training people, or the same score for all."""

    name: str = "median of the others"
    n_repeats: int = N_REPEATS

    def predict(self, question: Question, fold: Fold) -> Predictions:
        """Predict the test rows of a fold."""
        train, test = fold
        known = question.task.encode(question.labels[train, None])[:, 0]
        scores = np.repeat(np.median(known, axis=0)[None], len(test), axis=0)
        if question.task.classes:
            n_classes = len(question.task.classes)
            even = np.full((len(test), n_classes), 1.0 / n_classes)
            return Predictions(scores, even, np.zeros(len(test), dtype=np.intp))
        return Predictions(scores, np.empty((len(test), 0)), scores[:, 0])


def project(products: Floats, train: Rows, test: Rows) -> tuple[Floats, Floats]:
    """Return principal components of the training rows, and of others on these."""
    inner, across = products[np.ix_(train, train)], products[np.ix_(test, train)]
    mean = inner.mean(axis=0)
    centred = inner - mean - mean[:, None] + mean.mean()
    others = across - across.mean(axis=1, keepdims=True) - mean + mean.mean()
    values, vectors = np.linalg.eigh(centred)
    values, vectors = values[:0:-1], vectors[:, :0:-1]  # the last one is of the mean
    scale = np.sqrt(values.clip(np.finfo(float).eps * values[0]))
    return vectors * scale, others @ vectors / scale


def fit_ridge(
    question: Question, train: Rows, rows: Floats, others: Floats
) -> tuple[Predictions, float]:
    """Return predictions, and the error of the training rows held out."""
    labels = question.labels[train]
    targets = question.task.encode(labels[:, None])[:, 0]
    inner = inner_folds(train, _SEED)
    scores, held_out = select_and_score(
        rows.astype(np.float64), others.astype(np.float64), targets, inner
    )
    error = float(np.square(held_out - targets).mean())
    return question.task.predict(held_out, labels, scores), error


def predict_repeats(
    probe: Probe, question: Question
) -> list[tuple[Sequence[Fold], Predictions]]:
    """Predict everyone by cross-validation, with other folds in each repeat."""
    strata = question.task.strata(question.labels)
    repeats = repeat_folds(strata, np.arange(len(strata)), probe.n_repeats, _SEED)
    return [(folds, predict_all(probe, question, folds)) for folds in repeats]


def summarise_scores(
    question: Question,
    repeats: Sequence[tuple[Sequence[Fold], Predictions]],
    counted: NDArray[np.bool_],
) -> dict[str, Interval]:
    """Return each metric over the counted people, with intervals over people.

    Draws are widened for the training people that folds share, as in
    `compare_embeddings`.
    """
    task, labels = question.task, question.labels
    strata, groups = task.strata(labels), np.arange(len(labels))
    weights = draw_subjects(groups, strata, _N_DRAWS, _SEED)
    weights = np.vstack([np.ones(len(labels)), weights]) * counted
    values = []
    for folds, predicted in repeats:
        blocks = task.blocks(number_folds(folds), None)
        values.append(task.measure(labels, predicted, blocks, weights))
    intervals = {}
    for metric in question.metrics:
        draws = np.mean([value[metric] for value in values], axis=0)
        value, n_folds = float(draws[0]), len(repeats[0][0])
        widened = np.clip(inflate(draws[1:], value, n_folds), *LIMITS[metric])
        intervals[metric] = Interval(*summarise_draws(widened, value, 0.95)[:3])
    return intervals


def predict_all(probe: Probe, question: Question, folds: Sequence[Fold]) -> Predictions:
    """Predict each row by the fit of the fold that held it out."""
    parts = [probe.predict(question, fold) for fold in folds]
    order = np.argsort(np.concatenate([test for _, test in folds]), kind="stable")
    return Predictions(*(np.concatenate(c)[order] for c in zip(*parts, strict=True)))


def score_probes(
    probes: Sequence[Probe],
    questions: Sequence[Question],
    groups: Sequence[NDArray[np.bool_]],
) -> Iterator[list[str]]:
    """Yield a row of a table for each probe: all metrics over each group of people."""
    for probe in probes:
        answers = [predict_repeats(probe, question) for question in questions]
        scores = [
            summarise_scores(question, repeats, group)
            for group in groups
            for question, repeats in zip(questions, answers, strict=True)
        ]
        # Guesses differ between folds alone, which is no correlation.
        hidden = {"r"} if isinstance(probe, MedianProbe) else set()
        cells = (("-" if m in hidden else str(v)) for s in scores for m, v in s.items())
        yield [probe.name, *cells]
