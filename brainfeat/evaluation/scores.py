"""What an evaluation found, each number with its uncertainty."""

__all__ = [
    "Calibration",
    "LearningPoint",
    "ProbeEvaluation",
    "Score",
    "SiteScore",
    "tell",
]

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


def tell(value: float, n_digits: int = 2) -> str:
    """Write a number, or that it is not known.

    Parameters
    ----------
    value : float
        What was measured; NaN if it could not be.
    n_digits : int
        Decimals.

    Returns
    -------
    str
        For a reader.
    """
    return "cannot be told" if np.isnan(value) else f"{value:.{n_digits}f}"


class Score(NamedTuple):
    """An estimate and how sure it is.

    Attributes
    ----------
    value : float
        The estimate; NaN if it cannot be told.
    standard_error : float
        Its standard error.
    """

    value: float
    standard_error: float

    def __str__(self) -> str:
        if np.isnan(self.value):
            return tell(self.value)
        return f"{self.value:.2f} +- {self.standard_error:.2f}"


class LearningPoint(NamedTuple):
    """What a number of labels is worth.

    Attributes
    ----------
    n_labels : int
        Labelled subjects.
    auc : Score
        On all others, over random draws of the labelled ones.
    """

    n_labels: int
    auc: Score


class SiteScore(NamedTuple):
    """What is learnt elsewhere and tested at one site.

    Attributes
    ----------
    site : str
        The site that was left out.
    n_rows : int
        Its rows.
    auc : float
        Area under the ROC curve there; NaN if it has one class only.
    """

    site: str
    n_rows: int
    auc: float


class Calibration(NamedTuple):
    """Whether probabilities are what they say.

    Attributes
    ----------
    predicted, observed : ndarray of shape (n_bins,)
        Mean probability, and share of the second class, in bins of equal counts.
    brier : float
        Mean squared error of the probabilities; 0 is best.
    brier_of_share : float
        That of always telling the share of the second class.
    expected_error : float
        Mean distance of predicted from observed over the bins.
    """

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    brier: float
    brier_of_share: float
    expected_error: float


@dataclass(frozen=True, eq=False, kw_only=True)
class ProbeEvaluation:
    """How well a linear probe reads a label from features.

    All areas under the ROC curve are of rows that were held out; 0.5 is chance.

    Parameters
    ----------
    classes : tuple of str
        The two classes; the second is the positive one.
    n_rows, n_subjects : int
        What was evaluated.
    auc : Score
        Without any correction.
    p_value : float
        Share of permutations of the labels with an AUC as high.
    corrected_auc : Score or None
        After the confounds and the site were regressed out of the features in each
        fold, over pairs of rows of one site; None without confounds and site, NaN
        without such pairs.
    corrected_p_value : float or None
        Of permutations within sites; NaN if the score is.
    confound_auc : Score or None
        Of confounds and site alone, without any feature.
    site_decoding : Score or None
        Balanced accuracy of reading the site from the features; None without sites,
        NaN with too few subjects to tell.
    site_chance : float or None
        Balanced accuracy of guessing the site.
    site_association : float or None
        Cramer's V of site and label, from 0 to 1, over subjects at each site.
    leave_one_site_out : tuple of SiteScore
        Learnt at the other sites, tested at each; empty without sites.
    learning_curve : tuple of LearningPoint
        AUC over the number of labelled subjects.
    calibration : Calibration
        Of the probabilities.
    probabilities : ndarray of shape (n_rows,)
        Of the second class, mean over repeats.
    findings : tuple of str
        What a reader must know; each was warned of, too.
    """

    classes: tuple[str, str]
    n_rows: int
    n_subjects: int
    auc: Score
    p_value: float
    corrected_auc: Score | None
    corrected_p_value: float | None
    confound_auc: Score | None
    site_decoding: Score | None
    site_chance: float | None
    site_association: float | None
    leave_one_site_out: tuple[SiteScore, ...]
    learning_curve: tuple[LearningPoint, ...]
    calibration: Calibration
    probabilities: NDArray[np.float64]
    findings: tuple[str, ...]

    def summary(self) -> str:
        """Tell the results as text.

        Returns
        -------
        str
            A few lines.
        """
        lines = [
            f"{self.classes[1]} against {self.classes[0]}: {self.n_rows} rows of "
            f"{self.n_subjects} subjects",
            f"AUC {self.auc} (standard error), {_tell_p(self.p_value)}",
        ]
        if self.confound_auc is not None:
            lines.append(f"confounds and site alone: AUC {self.confound_auc}")
        if self.corrected_auc is not None and self.corrected_p_value is not None:
            lines.append(
                f"corrected for them: AUC {self.corrected_auc}, "
                f"{_tell_p(self.corrected_p_value)}"
            )
        if self.site_decoding is not None and self.site_chance is not None:
            lines.append(
                f"site read from the features: {self.site_decoding} "
                f"(chance {self.site_chance:.2f})"
            )
        lines += [
            f"left-out site {site.site}: AUC {tell(site.auc)} ({site.n_rows} rows)"
            for site in self.leave_one_site_out
        ]
        lines += [f"{p.n_labels} labels: AUC {p.auc}" for p in self.learning_curve]
        lines += [f"note: {finding}" for finding in self.findings]
        return "\n".join(lines)


def _tell_p(p_value: float) -> str:
    told = tell(p_value, 3)
    return f"p {told}" if np.isnan(p_value) else f"p = {told}"
