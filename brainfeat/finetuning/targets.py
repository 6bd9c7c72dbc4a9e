"""What a head is trained for: classes or numbers."""

__all__ = ["ClassTargets", "NumberTargets", "Targets"]

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor
from torch.nn import functional as F

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class ClassTargets:
    """Codes of classes, and how much each row counts."""

    codes: Rows  # n
    weights: Floats  # n, mean 1
    n_outputs: int

    # Inverse penalties of the probe.
    strengths = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)

    @property
    def strata(self) -> Rows:
        """What folds are stratified by."""
        return self.codes

    def take(self, rows: Rows) -> "ClassTargets":
        """Return some of the rows."""
        return ClassTargets(self.codes[rows], self.weights[rows], self.n_outputs)

    def fit_linear(self, features: Floats, strength: float) -> tuple[Floats, Floats]:
        """Fit penalised scores: weights (K, D) and biases (K,), which sum to zero."""
        model = LogisticRegression(C=strength, max_iter=2000)
        model.fit(features, self.codes, sample_weight=self.weights)
        known = model.classes_
        coefficients, biases = model.coef_, model.intercept_
        if len(known) == 2:
            coefficients = np.concatenate([-coefficients, coefficients]) / 2
            biases = np.concatenate([-biases, biases]) / 2
        weight = np.zeros((self.n_outputs, features.shape[1]))
        # A class that these rows lack is nearly impossible.
        bias = np.full(self.n_outputs, biases.min() - 10.0)
        weight[known], bias[known] = coefficients, biases
        return weight, bias

    def penalty(self, strength: float) -> float:
        """Return the factor of half the squared weights beside the mean loss."""
        # The difference of two opposite scores is twice as long as one of them.
        factor = 2.0 if self.n_outputs == 2 else 1.0
        return factor / (strength * len(self.codes))

    def losses(self, scores: Tensor, rows: Rows) -> Tensor:
        """Return the weighted cross-entropy of each row (n,)."""
        codes = torch.from_numpy(self.codes[rows]).to(scores.device)
        weights = torch.from_numpy(self.weights[rows]).to(scores)
        return F.cross_entropy(scores, codes, reduction="none") * weights


@dataclass(frozen=True, eq=False)
class NumberTargets:
    """Standardised numbers."""

    values: Floats  # n

    n_outputs = 1
    strengths = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)

    @property
    def strata(self) -> Rows:
        """One stratum."""
        return np.zeros(len(self.values), dtype=np.intp)

    def take(self, rows: Rows) -> "NumberTargets":
        """Return some of the rows."""
        return NumberTargets(self.values[rows])

    def fit_linear(self, features: Floats, strength: float) -> tuple[Floats, Floats]:
        """Fit ridge regression: weights (1, D) and bias (1,)."""
        model = Ridge(alpha=1.0 / strength).fit(features, self.values)
        return model.coef_[None], np.array([model.intercept_])

    def penalty(self, strength: float) -> float:
        """Return the factor of half the squared weights beside the mean loss."""
        # The loss is half the squared error, as Ridge's is, up to its factor of two.
        return 1.0 / (strength * len(self.values))

    def losses(self, scores: Tensor, rows: Rows) -> Tensor:
        """Return half the squared error of each row (n,)."""
        values = torch.from_numpy(self.values[rows]).to(scores)
        return 0.5 * (scores[:, 0] - values).square()


Targets = ClassTargets | NumberTargets
