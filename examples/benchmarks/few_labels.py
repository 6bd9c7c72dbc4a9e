"""Scores of a method for patients against controls, from few labelled subjects."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from development_cohort import Contrast
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, StratifiedShuffleSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from brainfeat.evaluation.resampling import draw_subjects, summarise_draws
from brainfeat.metrics import intraclass_correlation

# The same for all rows of numbers, with scikit-learn's penalty.
CLASSIFIER = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
SPLIT_SEED = 0
N_DRAWS = 1000  # of people, for intervals
Floats = NDArray[np.float64]
Summary = dict[str, float]


class Method(Protocol):
    """Trains on some subjects in one contrast, and predicts all in others."""

    @property
    def name(self) -> str:
        """Name in the tables."""
        ...

    def accepts(self, contrast: Contrast, /) -> bool:
        """Whether the method supports this contrast."""
        ...

    def predict(
        self, trained: Contrast, tested: Sequence[Contrast], train: NDArray[np.int64]
    ) -> list[NDArray[Any]]:
        """Return the probability of disease of every subject, for each contrast."""
        ...


@dataclass(frozen=True, eq=False)
class LinearMethod:
    """Logistic regression on one row of features per subject.

    Parameters
    ----------
    name : str
        Name in the tables.
    diagnosis : ndarray of int of shape (n_subjects,)
        1 for disease.
    rows : callable
        Returns the rows of all subjects in a contrast.
    accepts : callable
        Whether a contrast has rows.
    n_components : float or int, optional
        Number of principal components, or the fraction of the variance that they keep;
        None uses the features directly.
    unlabelled : bool
        Whether components are those of all subjects, in the contrast of training, in
        place of those of the labelled ones.
    """

    name: str
    diagnosis: NDArray[np.int64]
    rows: Callable[[Contrast], NDArray[Any]]
    accepts: Callable[[Contrast], bool]
    n_components: float | None = None
    unlabelled: bool = False

    def predict(
        self, trained: Contrast, tested: Sequence[Contrast], train: NDArray[np.int64]
    ) -> list[NDArray[Any]]:
        """Return the probability of disease of every subject, for each contrast."""
        model = clone(CLASSIFIER)
        rows = self.rows(trained)
        if self.unlabelled:
            model = make_pipeline(
                FrozenEstimator(_fit_components(self, trained)), model
            )
        elif self.n_components is not None:
            pca = PCA(self.n_components, svd_solver="full")
            model = make_pipeline(pca, model)
        model.fit(rows[train], self.diagnosis[train])
        return [model.predict_proba(self.rows(c))[:, 1] for c in tested]


@lru_cache  # the same for all splits
def _fit_components(method: LinearMethod, contrast: Contrast) -> PCA:
    rows = method.rows(contrast)
    n_components = min(method.n_components or 1.0, len(rows) - 1)
    return PCA(n_components, svd_solver="full").fit(rows)


def draw_splits(
    diagnosis: NDArray[np.int64], n_labels: int, n_splits: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Draw training subjects, stratified by diagnosis, and test on the others."""
    splitter = StratifiedShuffleSplit(
        n_splits, train_size=n_labels, random_state=SPLIT_SEED
    )
    yield from splitter.split(diagnosis, diagnosis)


def learn_and_test(
    method: Method,
    diagnosis: NDArray[np.int64],
    trained: Contrast,
    tested: Sequence[Contrast],
    *,
    n_labels: int,
    n_splits: int,
) -> list[dict[str, Summary]]:
    """Score a method in each tested contrast: mean, standard error, interval."""
    draws = draw_people(diagnosis)
    tables = []  # of each split, (contrasts, 1 + draws, (auc, accuracy))
    for train, test in draw_splits(diagnosis, n_labels, n_splits):
        weights = draws[:, test]
        tables.append(
            [
                weighted_scores(diagnosis[test], p[test], weights)
                for p in method.predict(trained, tested, train)
            ]
        )
    auc, accuracy = np.moveaxis(np.array(tables), 3, 0)  # splits, contrasts, 1 + draws
    return [
        {
            "auc": summarise(auc[:, index]),
            "accuracy": summarise(accuracy[:, index]),
            "auc_drop": summarise(auc[:, 0] - auc[:, index]),
        }
        for index in range(len(tested))
    ]


def draw_people(diagnosis: NDArray[np.int64]) -> Floats:
    """Draw people with replacement, as many of each class; (1 + draws, n_people).

    The first line is everyone, once. The same draws serve all methods.
    """
    everyone = np.arange(len(diagnosis))
    drawn = draw_subjects(everyone, diagnosis, N_DRAWS, SPLIT_SEED)
    return np.vstack([np.ones(len(diagnosis)), drawn])


def weighted_scores(
    truth: NDArray[np.int64], probability: NDArray[Any], weights: Floats
) -> Floats:
    """Return AUC and accuracy of people who count so often, of shape (n_draws, 2).

    A draw without one of the classes has no AUC: NaN.
    """
    ill, healthy = probability[truth == 1], probability[truth == 0]
    is_higher = (ill[:, None] > healthy) + 0.5 * (ill[:, None] == healthy)
    of_ill, of_healthy = weights[:, truth == 1], weights[:, truth == 0]
    pairs = of_ill.sum(axis=1) * of_healthy.sum(axis=1)
    is_right = (probability > 0.5) == truth
    with np.errstate(invalid="ignore"):
        auc = ((of_ill @ is_higher) * of_healthy).sum(axis=1) / pairs
        accuracy = weights @ is_right / weights.sum(axis=1)
    return np.stack([auc, accuracy], axis=1)


def summarise(scores: Floats) -> Summary:
    """Summarise scores of shape (n_splits, 1 + n_draws); the first are of everyone.

    ``se`` is the standard error of the mean over splits: it reflects the choice of the
    labelled people. ``low`` and ``high`` bound the 95 % interval over tested people, by
    bootstrap, with the classifiers as they are.
    """
    values, n_known = scores[:, 0], (~np.isnan(scores)).sum(axis=0)
    means = np.where(n_known > 0, np.nansum(scores, axis=0) / n_known.clip(1), np.nan)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    interval = summarise_draws(means[1:], float(means[0]), 0.95)
    return {
        "mean": float(values.mean()),
        "se": float(error),
        "low": interval.low,
        "high": interval.high,
    }


def compare_scanners(rows: NDArray[Any], n_scanners: int) -> dict[str, float]:
    """Compare the rows of subjects on all scanners, sorted by subject.

    Returns
    -------
    dict
        ``icc``, the median of ICC(2,1) over features, and ``scanner_accuracy``, how
        often the scanner of held-out subjects is recognised.
    """
    table = rows.reshape(-1, n_scanners, rows.shape[1])
    scanner = np.tile(np.arange(n_scanners), len(table))
    subject = np.repeat(np.arange(len(table)), n_scanners)
    folds = GroupKFold(min(5, len(table)))
    accuracy = cross_val_score(CLASSIFIER, rows, scanner, groups=subject, cv=folds)
    return {
        "icc": float(np.nanmedian(intraclass_correlation(table))),
        "scanner_accuracy": float(accuracy.mean()),
        "chance": 1 / n_scanners,
    }
