"""Estimates with their intervals over subjects."""

__all__ = ["Estimate", "PredictionBias"]

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Estimate(NamedTuple):
    """An estimate with its interval over subjects."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "undefined"
        if np.isnan(self.low):
            return f"{self.value:.2f}"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


class PredictionBias(NamedTuple):
    """How errors depend on the number itself, such as age.

    Young subjects are predicted too old and old ones too young: a slope of -1 is that
    of guessing the mean. The corrected gap is the gap less its expectation at the
    subject's own number; it is for comparing subjects, not for accuracy, as it knows
    the number that is predicted.

    Attributes
    ----------
    slope : Estimate
        Of the gap on the number, with its interval over subjects.
    corrected_slope : Estimate
        The same of the corrected gap.
    gap : ndarray of shape (n_rows,)
        Predicted minus true number, mean over repeats.
    corrected_gap : ndarray of shape (n_rows,)
        Less the line of gap on number, fitted on held-out rows within the training
        subjects of each fold.
    """

    slope: Estimate
    corrected_slope: Estimate
    gap: Floats
    corrected_gap: Floats
