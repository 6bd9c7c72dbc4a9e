"""A linear probe: how well a simple classifier reads a label from features."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

__all__ = ["ProbeScores", "cross_validate_probe"]


@dataclass(frozen=True, eq=False)
class ProbeScores:
    """Areas under the ROC curve of one kind of features.

    Parameters
    ----------
    name : str
        What the features are.
    n_features : int
        Their number.
    auc : ndarray of shape (n_repeats, n_folds)
        Of each held-out fold.
    """

    name: str
    n_features: int
    auc: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Mean over folds and repeats."""
        return float(self.auc.mean())

    @property
    def spread(self) -> float:
        """Standard deviation, over repeats, of the mean over folds."""
        return float(self.auc.mean(axis=1).std(ddof=1)) if len(self.auc) > 1 else 0.0


def cross_validate_probe(
    name: str,
    features: NDArray[np.floating],
    labels: ArrayLike,
    groups: ArrayLike,
    *,
    n_folds: int = 5,
    n_repeats: int = 10,
) -> ProbeScores:
    """Cross-validate logistic regression on standardised features.

    Folds keep the share of labels, and all rows of a subject together: splitting
    a subject's scans would let the classifier recognise the person [1]_.

    Parameters
    ----------
    name : str
        What the features are.
    features : ndarray of shape (n_rows, n_features)
        Features.
    labels : array-like of shape (n_rows,)
        Two classes.
    groups : array-like of shape (n_rows,)
        Subject of each row.
    n_folds : int
        Folds of one repeat.
    n_repeats : int
        Repeats, each with other folds.

    Returns
    -------
    ProbeScores
        Area under the ROC curve of each fold; 0.5 is chance.

    References
    ----------
    .. [1] Yagis et al., Effect of data leakage in brain MRI classification using
       2D convolutional neural networks. Scientific Reports 11, 2021.
       doi:10.1038/s41598-021-01681-w
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    auc = [
        cross_val_score(
            model,
            features,
            labels,
            groups=groups,
            cv=StratifiedGroupKFold(n_folds, shuffle=True, random_state=repeat),
            scoring="roc_auc",
        )
        for repeat in range(n_repeats)
    ]
    return ProbeScores(name, features.shape[1], np.array(auc))
