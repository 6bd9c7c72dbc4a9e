"""ComBat: harmonise features across sites, within each fold."""

__all__ = ["SiteHarmonizer"]

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from brainfeat.display.documented import Documented
from brainfeat.evaluation.columns import Columns, Encoding, split_columns
from brainfeat.evaluation.ridge import ROUNDING
from brainfeat.exceptions import InputError

Floats = NDArray[np.float64]

_TOLERANCE, _MAX_STEPS = 1e-6, 500


class SiteHarmonizer(Documented, TransformerMixin, BaseEstimator):
    """Adjust features for location and scale of each site by ComBat.

    Each site shifts and scales each feature; empirical Bayes shrinks both effects
    towards their distribution over features [1]_, [2]_. Site and covariates are
    columns of ``X``, so that cross-validation splits them with the features: effects
    are estimated on training rows and removed from test rows. The label must not be a
    covariate, as it is unknown for test rows.

    Parameters
    ----------
    site : str or int
        Column of a DataFrame by name, or of an array by position; dropped from the
        result.
    covariates : sequence of str or int
        Columns whose effect is kept, such as age; dropped from the result as well.

    Attributes
    ----------
    sites_ : tuple of str
        Sites seen in `fit`.
    shifts_ : ndarray of shape (n_sites, n_features)
        Effect on the location, in standard deviations of the residuals.
    scales_ : ndarray of shape (n_sites, n_features)
        Effect on the variance, as a factor.

    References
    ----------
    .. [1] Johnson, Li & Rabinovic, "Adjusting batch effects in microarray expression
       data using empirical Bayes methods", Biostatistics 8, 2007.
       doi:10.1093/biostatistics/kxj037
    .. [2] Fortin et al., "Harmonization of cortical thickness measurements across
       scanners and sites", NeuroImage 167, 2018.
       doi:10.1016/j.neuroimage.2017.11.024
    """

    def __init__(self, site: str | int, covariates: Columns = ()) -> None:
        self.site = site
        self.covariates = covariates

    def fit(self, X: Any, y: object = None) -> Self:
        """Estimate the effects of the sites; `y` is ignored."""
        columns = [self.site, *self.covariates]
        features, selected, self.feature_names_ = split_columns(X, columns)
        site = selected.iloc[:, 0].map(str).to_numpy()
        names, counts = np.unique(site, return_counts=True)
        if counts.min() < 2 or features.shape[1] < 2:
            raise InputError(
                "SiteHarmonizer: expected two features and two rows of each site, got "
                f"{features.shape[1]} features and {counts.min()} of "
                f"{names[counts.argmin()]}."
            )
        self.sites_ = tuple(map(str, names))
        self.encoding_ = Encoding.learn(selected.iloc[:, 1:])
        covariates = self.encoding_.apply(selected.iloc[:, 1:])
        members = (site[:, None] == names).astype(float)
        self._standardise(features, members, covariates)
        standard = self._to_standard(features, covariates)
        by_site = [standard[site == name] for name in names]
        effects = [_estimate_effect(rows, self._varies) for rows in by_site]
        self.shifts_ = np.stack([effect.shift for effect in effects])
        self.scales_ = np.stack([effect.scale for effect in effects])
        return self

    def transform(self, X: Any) -> Floats:
        """Remove the effects of the sites; also drops site and covariates."""
        check_is_fitted(self)
        columns = [self.site, *self.covariates]
        features, selected, _ = split_columns(X, columns, self.feature_names_)
        site = selected.iloc[:, 0].map(str)
        unknown = sorted(set(site) - set(self.sites_))
        if unknown:
            raise InputError(
                f"{self.site}: expected one of {', '.join(self.sites_)}, as in the "
                f"rows that were fitted, got {', '.join(unknown)}."
            )
        rows = [self.sites_.index(name) for name in site]
        covariates = self.encoding_.apply(selected.iloc[:, 1:])
        standard = self._to_standard(features, covariates)
        standard = (standard - self.shifts_[rows]) / np.sqrt(self.scales_[rows])
        expected = self.means_ + covariates @ self.slopes_
        return np.asarray(standard * self.deviations_ + expected)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names of the features, without site and covariates."""
        check_is_fitted(self)
        return np.array(self.feature_names_, dtype=object)

    def _standardise(
        self, features: Floats, members: Floats, covariates: Floats
    ) -> None:
        """Fit means of the sites and slopes of the covariates by least squares."""
        design = np.hstack([members, covariates])
        coefficients = np.linalg.pinv(design) @ features
        n_sites = members.shape[1]
        self.means_ = members.mean(axis=0) @ coefficients[:n_sites]
        self.slopes_ = coefficients[n_sites:]
        residuals = features - design @ coefficients
        deviations = np.sqrt(np.square(residuals).mean(axis=0))
        # A feature that is constant within sites is shifted, not scaled.
        self._varies = deviations > ROUNDING * np.abs(features).max(axis=0)
        self.deviations_ = np.where(self._varies, deviations, 1.0)

    def _to_standard(self, features: Floats, covariates: Floats) -> Floats:
        expected = self.means_ + covariates @ self.slopes_
        return np.asarray((features - expected) / self.deviations_)


class _Effect(NamedTuple):
    shift: Floats
    scale: Floats


def _estimate_effect(rows: Floats, varies: NDArray[np.bool_]) -> _Effect:
    """Posterior means of the effects of one site on standardised features (n, F)."""
    # Features that do not vary within sites are excluded from the prior.
    variances = rows.var(axis=0, ddof=1)
    scale = np.where(varies & (variances > 0), variances, 1.0)
    effect = _Effect(rows.mean(axis=0), scale)
    if varies.sum() > 1:
        effect.shift[varies], effect.scale[varies] = _shrink(rows[:, varies])
    return effect


def _shrink(rows: Floats) -> _Effect:
    n_rows = len(rows)
    means, variances = rows.mean(axis=0), rows.var(axis=0, ddof=1)
    prior_mean, prior_variance = means.mean(), means.var(ddof=1)
    # Moments of the inverse gamma prior of the variances.
    level, spread = variances.mean(), variances.var(ddof=1)
    if spread == 0 or prior_variance == 0:
        return _Effect(means, np.where(variances > 0, variances, 1.0))
    shape = 2.0 + level**2 / spread
    rate = level * (shape - 1.0)
    shift, scale = means, np.where(variances > 0, variances, level)
    for _ in range(_MAX_STEPS):
        weight = prior_variance * n_rows
        new_shift = (weight * means + scale * prior_mean) / (weight + scale)
        squares = np.square(rows - new_shift).sum(axis=0)
        new_scale = (rate + squares / 2.0) / (n_rows / 2.0 + shape - 1.0)
        shift_change = np.abs(new_shift - shift).max()
        scale_change = np.abs(new_scale / scale - 1.0).max()
        shift, scale = new_shift, new_scale
        if max(shift_change, scale_change) < _TOLERANCE:
            break
    return _Effect(shift, scale)
