"""Confounds, regressed out of features within each fold."""

__all__ = ["ConfoundRegressor"]

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from brainfeat.display.documented import Documented
from brainfeat.evaluation.columns import Columns, Encoding, split_columns
from brainfeat.evaluation.ridge import ROUNDING


class ConfoundRegressor(Documented, TransformerMixin, BaseEstimator):
    """Regress confounds out of features.

    Confounds are columns of ``X``, so that cross-validation splits them with the
    features: the regression is fitted on training rows and applied to test
    rows [1]_. Regressing before the split would leak test rows into training.

    Parameters
    ----------
    confounds : sequence of str or int
        Columns of a DataFrame by name, or of an array by position; they are dropped
        from the result. Text and pandas categoricals are categories.

    Attributes
    ----------
    coefficients_ : ndarray of shape (n_confounds, n_features)
        Features per unit of each confound.

    References
    ----------
    .. [1] Snoek, Miletic & Scholte, "How to control for confounds in decoding
       analyses of neuroimaging data", NeuroImage 184, 2019.
       doi:10.1016/j.neuroimage.2018.09.074

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"emb_000": [1.0, 2.0, 3.0], "age": [50, 60, 70]})
    >>> ConfoundRegressor(["age"]).fit_transform(table).round(6) + 0.0
    array([[2.],
           [2.],
           [2.]])
    """

    def __init__(self, confounds: Columns) -> None:
        self.confounds = confounds

    def fit(self, X: Any, y: object = None) -> Self:
        """Fit the regression of the features on the confounds; `y` is ignored."""
        features, confounds, names = split_columns(X, self.confounds)
        self.encoding_ = Encoding.learn(confounds)
        numbers = self.encoding_.apply(confounds)
        # Centred, so that the means of the features are kept.
        self.confound_means_ = numbers.mean(axis=0)
        centred = numbers - self.confound_means_
        # The least-norm solution, as one-hot levels are collinear.
        self.feature_means_ = features.mean(axis=0)
        deviations = features - self.feature_means_
        self.coefficients_ = np.linalg.pinv(centred) @ deviations
        self._rounding = ROUNDING * np.abs(deviations).max(axis=0)
        self.feature_names_ = names
        return self

    def transform(self, X: Any) -> NDArray[np.float64]:
        """Subtract what the confounds explain; also drops the confounds."""
        check_is_fitted(self)
        features, confounds, _ = split_columns(X, self.confounds, self.feature_names_)
        numbers = self.encoding_.apply(confounds) - self.confound_means_
        residuals = features - self.feature_means_ - numbers @ self.coefficients_
        # Zero the rounding residue, which would encode the confound.
        residuals[np.abs(residuals) <= self._rounding] = 0.0
        return np.asarray(self.feature_means_ + residuals)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names of the features, without the confounds."""
        check_is_fitted(self)
        return np.array(self.feature_names_, dtype=object)
