"""Nested, grouped, stratified cross-validation of a ridge probe."""

__all__ = [
    "CrossValidation",
    "ProbeInput",
    "calibrate",
    "cross_validate",
    "decode_site",
    "fit_fold",
    "leave_one_site_out",
    "measure_learning_curve",
    "predict_held_out",
]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from brainfeat.evaluation.folds import (
    Fold,
    draw_groups,
    inner_folds,
    number_folds,
    outer_folds,
    permute_labels,
)
from brainfeat.evaluation.labelled import LabelledFeatures
from brainfeat.evaluation.ridge import select_and_score
from brainfeat.evaluation.scores import Calibration, LearningPoint, Score, SiteScore
from brainfeat.evaluation.tasks import Labels, Predictions, Task

Rows = NDArray[np.intp]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Features, features without what confounds explain, or confounds alone.
ProbeInput = Literal["features", "adjusted", "confounds"]

_LEARNING_SIZES = (10, 20, 40, 80, 160, 320)
_N_DRAWS = 20
_MAX_TRAIN_FRACTION = 0.75  # of the subjects, in the learning curve
_N_BINS = 5
_MIN_SUBJECTS = 4  # to decode the site: two to train on, in two folds
_MIN_SUBJECTS_PER_SITE = 2


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Scores of held-out rows: means over repeats, p-value of the first repeat."""

    scores: Mapping[str, Score]  # standard errors are those of Nadeau and Bengio
    p_value: float  # fraction of permutations that score as high; NaN if the score is
    predictions: Sequence[Predictions]  # of each repeat

    @property
    def auc(self) -> Score:
        """The first of the scores: of numbers, R2."""
        return next(iter(self.scores.values()))

    @property
    def probabilities(self) -> Floats:
        """Mean over repeats: of the second of two classes (n_rows,), or of each."""
        mean = np.mean([p.probabilities for p in self.predictions], axis=0)
        return np.asarray(mean[:, 1] if mean.shape[1] == 2 else mean)


def cross_validate(
    data: LabelledFeatures,
    *,
    probe_input: ProbeInput,
    repeats: Sequence[Sequence[Fold]],
    n_permutations: int,
    seed: int,
) -> CrossValidation:
    """Cross-validate a probe, and on permuted labels; adjusted, only within sites."""
    task, once = data.task, np.ones((1, len(data.labels)))
    site = data.site if probe_input == "adjusted" else None
    whole, parts, predictions = [], [], []
    for folds in repeats:
        predicted = predict_held_out(data, probe_input, folds, seed)
        blocks = task.blocks(number_folds(folds), site)
        whole.append(task.measure(data.labels, predicted, blocks, once))
        for _, test in folds:
            part = Predictions(*(values[test] for values in predicted))
            sizes = blocks[test], once[:, test]
            parts.append(task.measure(data.labels[test], part, *sizes))
        predictions.append(predicted)
    scores = {
        name: Score(
            float(np.mean([values[name] for values in whole])),
            _standard_error([float(v[name][0]) for v in parts], len(repeats[0])),
        )
        for name in task.metrics
    }
    p_value = np.nan
    if not np.isnan(scores[task.metrics[0]].value):
        p_value = _permute(data, probe_input, repeats[0], n_permutations, seed)
    return CrossValidation(scores, p_value, predictions)


def predict_held_out(
    data: LabelledFeatures, probe_input: ProbeInput, folds: Sequence[Fold], seed: int
) -> Predictions:
    """Predict each row by the probe of the fold that held it out."""
    parts = []
    for train, test in folds:
        values = _select_input(data, probe_input, train)
        labels = data.labels[train, None]
        held_out, scores = fit_fold(
            data.task, values, labels, data.groups, (train, test), seed
        )
        labels = labels[:, 0]
        parts.append(data.task.predict(held_out[:, 0], labels, scores[:, 0]))
    order = np.argsort(np.concatenate([test for _, test in folds]), kind="stable")
    columns = zip(*parts, strict=True)
    return Predictions(*(np.concatenate(column)[order] for column in columns))


def calibrate(labels: Flags, probabilities: Floats) -> Calibration:
    """Compare probabilities of the second class with its frequency, in bins."""
    order = np.argsort(probabilities, kind="stable")
    bins = np.array_split(order, min(_N_BINS, len(order)))
    predicted = np.array([probabilities[rows].mean() for rows in bins])
    observed = np.array([labels[rows].mean() for rows in bins])
    weights = np.array([len(rows) for rows in bins]) / len(order)
    return Calibration(
        predicted,
        observed,
        float(np.square(probabilities - labels).mean()),
        float(labels.mean() * (1.0 - labels.mean())),
        float(weights @ np.abs(predicted - observed)),
    )


def leave_one_site_out(data: LabelledFeatures, *, seed: int) -> tuple[SiteScore, ...]:
    """Train on all sites but one, and test there."""
    # Confounds are not regressed out, as the effect of a new site is unknown.
    scores = []
    for code, name in enumerate(data.site_names):
        test = np.flatnonzero(data.site == code)
        # Subjects who were also scanned at this site are not trained on.
        is_elsewhere = ~np.isin(data.groups, data.groups[test])
        train = np.flatnonzero((data.site != code) & is_elsewhere)
        auc = np.nan
        strata = (data.task.levels(data.labels)[rows] for rows in (train, test))
        if all(data.task.is_scorable(codes) for codes in strata):
            auc = _test_score(data, (train, test), seed)
        scores.append(SiteScore(name, len(test), auc))
    return tuple(scores)


def measure_learning_curve(
    data: LabelledFeatures, *, seed: int
) -> tuple[LearningPoint, ...]:
    """Train on 10, 20, 40 and so on labelled subjects, and test on all others."""
    generator = np.random.default_rng(seed)
    strata = data.task.strata(data.labels)
    n_subjects = len(np.unique(data.groups))
    points = []
    for size in _LEARNING_SIZES:
        if size > _MAX_TRAIN_FRACTION * n_subjects:
            break
        folds = [
            draw_groups(strata, data.groups, size, generator) for _ in range(_N_DRAWS)
        ]
        scores = [_test_score(data, fold, seed) for fold in folds]
        error = float(np.nanstd(scores, ddof=1) / np.sqrt(len(scores)))
        points.append(LearningPoint(size, Score(float(np.nanmean(scores)), error)))
    return tuple(points)


def decode_site(features: Floats, site: Rows, groups: Rows, *, seed: int) -> Score:
    """Balanced accuracy of reading the site from held-out features; NaN if too few."""
    folds = outer_folds(site, groups, seed) if _can_decode(site, groups) else []
    if not folds or any(len(np.unique(groups[train])) < 2 for train, _ in folds):
        return Score(np.nan, np.nan)
    targets = 2.0 * (site[:, None] == np.arange(site.max() + 1)) - 1.0
    is_right = np.zeros(len(site))
    fold_scores = []
    for train, test in folds:
        inner = inner_folds(groups[train], seed)
        rows, others = features[train], features[test]
        scores, _ = select_and_score(rows, others, targets[train], inner)
        is_right[test] = scores.argmax(axis=1) == site[test]
        fold_scores.append(_mean_by_site(is_right[test], site[test]))
    error = _standard_error(fold_scores, len(folds))
    return Score(_mean_by_site(is_right, site), error)


def _permute(
    data: LabelledFeatures,
    probe_input: ProbeInput,
    folds: Sequence[Fold],
    n_permutations: int,
    seed: int,
) -> float:
    """Fraction of permutations of the labels that score as high as these."""
    numbers = number_folds(folds)
    site = data.site if probe_input == "adjusted" else None
    within = numbers if site is None else numbers * (site.max() + 1) + site
    generator = np.random.default_rng(seed)
    permuted = permute_labels(
        data.labels, data.groups, within, n_permutations, generator
    )
    labels = np.column_stack([data.labels, permuted])
    ranked = np.zeros(data.task.encode(labels).shape)
    for train, test in folds:
        values = _select_input(data, probe_input, train)
        known = labels[train]
        held_out, scores = fit_fold(
            data.task, values, known, data.groups, (train, test), seed
        )
        ranked[test] = data.task.rank(held_out, known, scores)
    score = data.task.score(labels, ranked, data.task.blocks(numbers, site))
    # A permutation without a score (NaN) must not lower the p-value.
    is_lower = score[1:] < score[0] - 1e-12
    return float((1 + np.sum(~is_lower)) / (1 + n_permutations))


def _select_input(
    data: LabelledFeatures, probe_input: ProbeInput, train: Rows
) -> Floats:
    if probe_input == "features":
        return data.features
    return data.adjust(train) if probe_input == "adjusted" else data.confounds


def fit_fold(
    task: Task,
    values: Floats,
    labels: Labels,  # n_train n_labelings
    groups: Rows,
    fold: Fold,
    seed: int,
) -> tuple[Floats, Floats]:
    """Score training rows, held out, and test rows: (.., n_labelings, n_outputs)."""
    train, test = fold
    targets = task.encode(labels)
    scores, held_out = select_and_score(
        values[train],
        values[test],
        targets.reshape(len(train), -1),
        inner_folds(groups[train], seed),
    )
    shape = targets.shape[1:]
    return held_out.reshape(-1, *shape), scores.reshape(-1, *shape)


def _test_score(data: LabelledFeatures, fold: Fold, seed: int) -> float:
    train, test = fold
    labels = data.labels[:, None]
    known, task = labels[train], data.task
    held_out, scores = fit_fold(task, data.features, known, data.groups, fold, seed)
    one_block = np.zeros(len(test), dtype=np.intp)
    ranked = task.rank(held_out, known, scores)
    return float(task.score(labels[test], ranked, one_block)[0])


def _standard_error(scores: Sequence[float], n_folds: int) -> float:
    known = [score for score in scores if not np.isnan(score)]
    variance = np.var(known, ddof=1) if len(known) > 1 else np.nan
    # Folds share training rows, so the variance of their mean exceeds 1 / n: Nadeau &
    # Bengio, Machine Learning 52, 2003. doi:10.1023/A:1024068626366
    factor = 1.0 / len(scores) + 1.0 / (n_folds - 1)
    return float(np.sqrt(factor * variance))


def _can_decode(site: Rows, groups: Rows) -> bool:
    pairs = np.unique(np.column_stack([site, groups]), axis=0)
    _, counts = np.unique(pairs[:, 0], return_counts=True)
    n_subjects = len(np.unique(groups))
    return bool(n_subjects >= _MIN_SUBJECTS and counts.min() >= _MIN_SUBJECTS_PER_SITE)


def _mean_by_site(is_right: Floats, site: Rows) -> float:
    return float(np.mean([is_right[site == code].mean() for code in np.unique(site)]))
