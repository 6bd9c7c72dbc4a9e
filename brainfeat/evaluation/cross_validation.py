"""Nested, grouped, stratified cross-validation of a ridge probe."""

__all__ = [
    "CrossValidation",
    "ProbeInput",
    "calibrate",
    "cross_validate",
    "decode_site",
    "leave_one_site_out",
    "measure_learning_curve",
]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from brainfeat.evaluation.folds import (
    Fold,
    draw_groups,
    inner_folds,
    outer_folds,
    permute_labels,
)
from brainfeat.evaluation.labelled import LabelledFeatures
from brainfeat.evaluation.ridge import pair_auc, select_and_score
from brainfeat.evaluation.scores import Calibration, LearningPoint, Score, SiteScore

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

    auc: Score  # its standard error is that of Nadeau and Bengio
    p_value: float  # fraction of permutations that score as high; NaN if the AUC is
    probabilities: Floats  # n_rows: of the second class


def cross_validate(
    data: LabelledFeatures,
    *,
    probe_input: ProbeInput,
    repeats: Sequence[Sequence[Fold]],
    n_permutations: int,
    seed: int,
) -> CrossValidation:
    """Cross-validate a probe, and on permuted labels; adjusted, only within sites."""
    repeat_aucs, fold_aucs, probabilities = [], [], []
    p_value = np.nan
    for repeat, folds in enumerate(repeats):
        blocks = _blocks(data, folds, within_sites=probe_input == "adjusted")
        labels = data.labels[:, None]
        if repeat == 0:
            generator = np.random.default_rng(seed)
            permuted = permute_labels(
                data.labels, data.groups, blocks, n_permutations, generator
            )
            labels = np.hstack([labels, permuted])
        scores, probability = _score_held_out(data, probe_input, labels, folds, seed)
        for _, test in folds:
            fold_auc = pair_auc(scores[test, :1], labels[test, :1], blocks[test])
            fold_aucs.append(fold_auc[0])
        auc = pair_auc(scores, labels, blocks)
        if repeat == 0:
            # A permutation without a score (NaN) must not lower the p-value.
            is_lower = auc[1:] < auc[0] - 1e-12
            p_value = (1 + np.sum(~is_lower)) / (1 + n_permutations)
        repeat_aucs.append(auc[0])
        probabilities.append(probability)
    score = Score(float(np.mean(repeat_aucs)), _standard_error(fold_aucs, len(folds)))
    if np.isnan(score.value):
        p_value = np.nan
    return CrossValidation(score, float(p_value), np.mean(probabilities, axis=0))


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
        if len(set(data.labels[train])) == len(set(data.labels[test])) == 2:
            auc = _test_auc(data, train, test, seed)
        scores.append(SiteScore(name, len(test), auc))
    return tuple(scores)


def measure_learning_curve(
    data: LabelledFeatures, *, seed: int
) -> tuple[LearningPoint, ...]:
    """Train on 10, 20, 40 and so on labelled subjects, and test on all others."""
    generator = np.random.default_rng(seed)
    n_subjects = len(np.unique(data.groups))
    points = []
    for size in _LEARNING_SIZES:
        if size > _MAX_TRAIN_FRACTION * n_subjects:
            break
        aucs = []
        for _ in range(_N_DRAWS):
            train, test = draw_groups(data.labels, data.groups, size, generator)
            aucs.append(_test_auc(data, train, test, seed))
        error = float(np.nanstd(aucs, ddof=1) / np.sqrt(len(aucs)))
        points.append(LearningPoint(size, Score(float(np.nanmean(aucs)), error)))
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


def _score_held_out(
    data: LabelledFeatures,
    probe_input: ProbeInput,
    labels: Flags,  # n_rows n_labels
    folds: Sequence[Fold],
    seed: int,
) -> tuple[Floats, Floats]:
    """Return held-out scores (n_rows, n_labels), and probabilities of the first."""
    scores = np.zeros(labels.shape)
    probabilities = np.zeros(len(labels))
    for train, test in folds:
        values = data.features
        if probe_input != "features":
            is_adjusted = probe_input == "adjusted"
            values = data.adjust(train) if is_adjusted else data.confounds
        scores[test], held_out = select_and_score(
            values[train],
            values[test],
            np.where(labels[train], 1.0, -1.0),
            inner_folds(data.groups[train], seed),
        )
        probabilities[test] = _to_probabilities(
            held_out[:, 0], data.labels[train], scores[test, 0]
        )
    return scores, probabilities


def _test_auc(data: LabelledFeatures, train: Rows, test: Rows, seed: int) -> float:
    scores, _ = select_and_score(
        data.features[train],
        data.features[test],
        np.where(data.labels[train, None], 1.0, -1.0),
        inner_folds(data.groups[train], seed),
    )
    one_block = np.zeros(len(test), dtype=np.intp)
    return float(pair_auc(scores, data.labels[test, None], one_block)[0])


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


def _blocks(
    data: LabelledFeatures, folds: Sequence[Fold], *, within_sites: bool
) -> Rows:
    """Assign to each row its test fold, or its test fold and site."""
    blocks = np.zeros(len(data.labels), dtype=np.intp)
    for number, (_, test) in enumerate(folds):
        blocks[test] = number
    if within_sites and data.site is not None:
        blocks = blocks * len(data.site_names) + data.site
    return blocks


def _to_probabilities(held_out: Floats, labels: Flags, scores: Floats) -> Floats:
    """Calibrate scores on the held-out scores of the training rows."""
    model = LogisticRegression(C=np.inf, max_iter=1000)
    model.fit(held_out[:, None], labels)
    probabilities: Floats = model.predict_proba(scores[:, None])[:, 1]
    return probabilities
