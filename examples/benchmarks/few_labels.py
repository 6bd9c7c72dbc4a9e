"""Scores of a method for patients against controls, from few labelled subjects."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from development_cohort import Contrast
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, StratifiedShuffleSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from brainfeat.metrics import intraclass_correlation

# The same for all rows of numbers, with scikit-learn's penalty.
CLASSIFIER = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
SPLIT_SEED = 0
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
    n_components : float, optional
        Fraction of the variance of the training subjects that principal components
        keep; None uses the features directly.
    """

    name: str
    diagnosis: NDArray[np.int64]
    rows: Callable[[Contrast], NDArray[Any]]
    accepts: Callable[[Contrast], bool]
    n_components: float | None = None

    def predict(
        self, trained: Contrast, tested: Sequence[Contrast], train: NDArray[np.int64]
    ) -> list[NDArray[Any]]:
        """Return the probability of disease of every subject, for each contrast."""
        model = clone(CLASSIFIER)
        if self.n_components is not None:
            pca = PCA(self.n_components, svd_solver="full")
            model = make_pipeline(pca, model)
        model.fit(self.rows(trained)[train], self.diagnosis[train])
        return [model.predict_proba(self.rows(c))[:, 1] for c in tested]


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
    """Score a method in each tested contrast: mean and standard error over splits."""
    scores = []  # splits, contrasts, (auc, accuracy)
    for train, test in draw_splits(diagnosis, n_labels, n_splits):
        truth = diagnosis[test]
        probabilities = [p[test] for p in method.predict(trained, tested, train)]
        scores.append(
            [
                (roc_auc_score(truth, p), np.mean((p > 0.5) == truth))
                for p in probabilities
            ]
        )
    auc, accuracy = np.moveaxis(np.array(scores), 2, 0)  # splits, contrasts each
    return [
        {
            "auc": summarise(auc[:, index]),
            "accuracy": summarise(accuracy[:, index]),
            "auc_drop": summarise(auc[:, 0] - auc[:, index]),
        }
        for index in range(len(tested))
    ]


def summarise(values: NDArray[np.float64]) -> Summary:
    """Return the mean over random splits, and its standard error.

    Splits share their subjects, so the error reflects the choice of the labelled
    subjects, not the variation between cohorts.
    """
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return {"mean": float(values.mean()), "se": float(error)}


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
