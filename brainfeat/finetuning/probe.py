"""The linear probe that fine-tuning starts from."""

__all__ = ["Probe", "fit_probe", "split_people"]

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from brainfeat.evaluation.ridge import standard_deviation
from brainfeat.finetuning.targets import Targets

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

_N_FOLDS = 5  # that choose the penalty


class Probe(NamedTuple):
    """Linear scores of standardised features."""

    mean: Floats  # D
    scale: Floats  # D
    weight: Floats  # K D
    bias: Floats  # K
    strength: float  # inverse penalty

    def score(self, features: Floats) -> Floats:
        """Score rows of features (n, D): (n, K)."""
        return (features - self.mean) / self.scale @ self.weight.T + self.bias


def fit_probe(features: Floats, targets: Targets, groups: Rows, *, seed: int) -> Probe:
    """Fit the probe, with the penalty of the least loss of held-out people."""
    strengths = targets.strengths
    losses = np.zeros(len(strengths))
    for train, test in split_people(targets.strata, groups, _N_FOLDS, seed):
        part = targets.take(train)
        for index, strength in enumerate(strengths):
            scores = _fit(features[train], part, strength).score(features[test])
            losses[index] += float(targets.losses(torch.from_numpy(scores), test).sum())
    # The strongest penalty, if there are too few people to choose.
    return _fit(features, targets, strengths[int(losses.argmin())])


def split_people(
    strata: Rows, groups: Rows, n_folds: int, seed: int
) -> Iterator[tuple[Rows, Rows]]:
    """Yield rows to train on and to test, of different people.

    There are fewer folds where a class has fewer people, and none of a single one.
    """
    counts = [len(np.unique(groups[strata == code])) for code in np.unique(strata)]
    n_folds = min(n_folds, *counts)
    if n_folds < 2:
        return
    kind = StratifiedGroupKFold if len(counts) > 1 else GroupKFold
    splitter = kind(n_folds, shuffle=True, random_state=seed)
    yield from splitter.split(strata, strata, groups)


def _fit(features: Floats, targets: Targets, strength: float) -> Probe:
    mean, scale = features.mean(axis=0), standard_deviation(features)[0]
    weight, bias = targets.fit_linear((features - mean) / scale, strength)
    return Probe(mean, scale, weight, bias, strength)
