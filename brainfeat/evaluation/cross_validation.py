"""Nested, grouped, stratified cross-validation of a ridge probe."""

__all__ = [
    "CrossValidation",
    "calibrate",
    "cross_validate",
    "decode_site",
    "leave_one_site_out",
    "measure_learning_curve",
]

from collections.abc import Sequence
from dataclasses import dataclass

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

_LEARNING_SIZES = (10, 20, 40, 80, 160, 320)
_N_DRAWS = 20
_LARGEST_SHARE = 0.75  # of the subjects, to learn from in the learning curve
_N_BINS = 5
_FEWEST_SUBJECTS = 4  # to read the site: two to learn from, in two folds
_FEWEST_AT_A_SITE = 2


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Scores of held-out rows."""

    auc: Score
    p_value: float
    probabilities: Floats


def cross_validate(
    data: LabelledFeatures,
    *,
    features: str,
    repeats: Sequence[Sequence[Fold]],
    n_permutations: int,
    seed: int,
) -> CrossValidation:
    """Cross-validate a probe, and the same probe on permuted labels."""
    of_repeats, of_folds, probabilities = [], [], []
    p_value = np.nan
    for repeat, folds in enumerate(repeats):
        blocks = _blocks(data, folds, within_sites=features == "adjusted")
        labels = data.labels[:, None]
        if repeat == 0:
            generator = np.random.default_rng(seed)
            drawn = permute_labels(
                data.labels, data.groups, blocks, n_permutations, generator
            )
            labels = np.hstack([labels, drawn])
        scores, probability = _score_held_out(data, features, labels, folds, seed)
        for _, test in folds:
            fold = pair_auc(scores[test, :1], labels[test, :1], blocks[test])
            of_folds.append(fold[0])
        auc = pair_auc(scores, labels, blocks)
        if repeat == 0:
            # A permutation without a score must not make the true one better.
            is_lower = auc[1:] < auc[0] - 1e-12
            p_value = (1 + np.sum(~is_lower)) / (1 + n_permutations)
        of_repeats.append(auc[0])
        probabilities.append(probability)
    score = Score(float(np.mean(of_repeats)), _estimate_error(of_folds, len(folds)))
    if np.isnan(score.value):
        p_value = np.nan
    return CrossValidation(score, float(p_value), np.mean(probabilities, axis=0))


def calibrate(labels: NDArray[np.bool_], probabilities: Floats) -> Calibration:
    """Compare probabilities with what happened."""
    order = np.argsort(probabilities, kind="stable")
    bins = np.array_split(order, min(_N_BINS, len(order)))
    predicted = np.array([probabilities[rows].mean() for rows in bins])
    observed = np.array([labels[rows].mean() for rows in bins])
    sizes = np.array([len(rows) for rows in bins]) / len(order)
    return Calibration(
        predicted,
        observed,
        float(np.square(probabilities - labels).mean()),
        float(labels.mean() * (1.0 - labels.mean())),
        float(sizes @ np.abs(predicted - observed)),
    )


def leave_one_site_out(data: LabelledFeatures, *, seed: int) -> tuple[SiteScore, ...]:
    """Learn at all sites but one, and test there."""
    found = []
    for code, name in enumerate(data.site_names):
        test = np.flatnonzero(data.site == code)
        # Someone who was also scanned there must not be learnt from.
        elsewhere = ~np.isin(data.groups, data.groups[test])
        train = np.flatnonzero((data.site != code) & elsewhere)
        auc = np.nan
        if len(set(data.labels[train])) == len(set(data.labels[test])) == 2:
            scores, _ = select_and_score(
                data.features[train],
                data.features[test],
                np.where(data.labels[train, None], 1.0, -1.0),
                inner_folds(data.groups[train], seed),
            )
            blocks = np.zeros(len(test), dtype=np.intp)
            auc = pair_auc(scores, data.labels[test, None], blocks)[0]
        found.append(SiteScore(name, len(test), float(auc)))
    return tuple(found)


def measure_learning_curve(
    data: LabelledFeatures, *, seed: int
) -> tuple[LearningPoint, ...]:
    """Learn from few labelled subjects, and test on all others."""
    generator = np.random.default_rng(seed)
    n_subjects = len(np.unique(data.groups))
    points = []
    for size in _LEARNING_SIZES:
        if size > _LARGEST_SHARE * n_subjects:
            break
        found = []
        for _ in range(_N_DRAWS):
            train, test = draw_groups(data.labels, data.groups, size, generator)
            scores, _ = select_and_score(
                data.features[train],
                data.features[test],
                np.where(data.labels[train, None], 1.0, -1.0),
                inner_folds(data.groups[train], seed),
            )
            blocks = np.zeros(len(test), dtype=np.intp)
            found.append(pair_auc(scores, data.labels[test, None], blocks)[0])
        error = float(np.nanstd(found, ddof=1) / np.sqrt(len(found)))
        points.append(LearningPoint(size, Score(float(np.nanmean(found)), error)))
    return tuple(points)


def decode_site(features: Floats, site: Rows, groups: Rows, *, seed: int) -> Score:
    """Read the site from features."""
    unknown = Score(np.nan, np.nan)
    if not _are_enough(site, groups):
        return unknown
    targets = 2.0 * (site[:, None] == np.arange(site.max() + 1)) - 1.0
    right = np.zeros(len(site))
    of_folds = []
    folds = outer_folds(site, groups, seed)
    if any(len(np.unique(groups[train])) < 2 for train, _ in folds):
        return unknown
    for train, test in folds:
        scores, _ = select_and_score(
            features[train],
            features[test],
            targets[train],
            inner_folds(groups[train], seed),
        )
        right[test] = scores.argmax(axis=1) == site[test]
        of_folds.append(_balanced(right[test], site[test]))
    return Score(_balanced(right, site), _estimate_error(of_folds, len(folds)))


def _score_held_out(
    data: LabelledFeatures,
    features: str,
    labels: NDArray[np.bool_],
    folds: Sequence[Fold],
    seed: int,
) -> tuple[Floats, Floats]:
    """Score each row by the probe of the fold that holds it out."""
    scores = np.zeros(labels.shape)
    probability = np.zeros(len(labels))
    for train, test in folds:
        values = _values(data, features, train)
        scores[test], held_out = select_and_score(
            values[train],
            values[test],
            np.where(labels[train], 1.0, -1.0),
            inner_folds(data.groups[train], seed),
        )
        probability[test] = _to_probability(
            held_out[:, 0], data.labels[train], scores[test, 0]
        )
    return scores, probability


def _estimate_error(scores: Sequence[float], n_folds: int) -> float:
    """Estimate the standard error of the mean score of all folds."""
    known = [score for score in scores if not np.isnan(score)]
    spread = np.var(known, ddof=1) if len(known) > 1 else np.nan
    # Folds share training rows: the variance of their mean is more than its n-th part.
    share = 1.0 / len(scores) + 1.0 / (n_folds - 1)
    return float(np.sqrt(share * spread))


def _are_enough(site: Rows, groups: Rows) -> bool:
    pairs = np.unique(np.column_stack([site, groups]), axis=0)
    _, at_each_site = np.unique(pairs[:, 0], return_counts=True)
    n_subjects = len(np.unique(groups))
    return bool(
        n_subjects >= _FEWEST_SUBJECTS and at_each_site.min() >= _FEWEST_AT_A_SITE
    )


def _balanced(right: Floats, site: Rows) -> float:
    return float(np.mean([right[site == code].mean() for code in np.unique(site)]))


def _values(data: LabelledFeatures, features: str, train: Rows) -> Floats:
    if features == "confounds":
        return data.confounds
    return data.adjust(train) if features == "adjusted" else data.features


def _blocks(
    data: LabelledFeatures, folds: Sequence[Fold], *, within_sites: bool
) -> Rows:
    blocks = np.zeros(len(data.labels), dtype=np.intp)
    for number, (_, test) in enumerate(folds):
        blocks[test] = number
    if within_sites and data.site is not None:
        blocks = blocks * len(data.site_names) + data.site
    return blocks


def _to_probability(
    held_out: Floats, labels: NDArray[np.bool_], scores: Floats
) -> Floats:
    """Turn scores to probabilities, as held-out scores of the training rows say."""
    model = LogisticRegression(C=np.inf, max_iter=1000)
    model.fit(held_out[:, None], labels)
    probabilities: Floats = model.predict_proba(scores[:, None])[:, 1]
    return probabilities
