"""Results of an evaluation, each score with its standard error."""

__all__ = [
    "Calibration",
    "CommonSubset",
    "LearningPoint",
    "ProbeEvaluation",
    "Score",
    "SiteScore",
    "format_number",
]

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainfeat.display.summarised import Summarised
from brainfeat.evaluation.estimates import PredictionBias
from brainfeat.evaluation.rates import OperatingPoint, RocCurve, rates_at
from brainfeat.exceptions import InputError


def format_number(value: float, n_digits: int = 2) -> str:
    """Format a number with `n_digits` decimals, or NaN as "undefined"."""
    return "undefined" if np.isnan(value) else f"{value:.{n_digits}f}"


class Score(NamedTuple):
    """An estimate with its standard error.

    Attributes
    ----------
    value : float
        The estimate; NaN if undefined.
    standard_error : float
        Its standard error.
    """

    value: float
    standard_error: float

    def __str__(self) -> str:
        if np.isnan(self.value):
            return format_number(self.value)
        return f"{self.value:.2f} +- {self.standard_error:.2f}"


_UNDEFINED = Score(np.nan, np.nan)


class LearningPoint(NamedTuple):
    """AUC on all other subjects, after training on `n_labels` subjects.

    Of numbers, R2 instead, as in the other results.
    """

    n_labels: int
    auc: Score


class SiteScore(NamedTuple):
    """AUC at a site that was left out of training; NaN if it has one class."""

    site: str
    n_rows: int
    auc: float


class CommonSubset(NamedTuple):
    """Score of the probe in the rows of the same modalities."""

    modalities: str
    n_rows: int
    n_subjects: int
    auc: Score
    p_value: float
    metric: str = "AUC"

    def __str__(self) -> str:
        return (
            f"among the {self.n_subjects} subjects with {self.modalities}: "
            f"{self.metric} {self.auc}, {_format_p(self.p_value)}"
        )


class Calibration(NamedTuple):
    """Calibration of probabilities, in bins of equal counts."""

    predicted: NDArray[np.float64]  # n_bins: mean probability
    observed: NDArray[np.float64]  # n_bins: fraction of the second class
    brier: float  # mean squared error of the probabilities; 0 is best
    brier_of_share: float  # the same if the fraction of the class is predicted
    expected_error: float  # mean of |predicted - observed| over the bins


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ProbeEvaluation(Summarised):
    """Result of `evaluate_probe`.

    All scores are of held-out rows. Areas under the ROC curve are of the second of two
    classes, and mean one-vs-rest for more; chance is 0.5. If ``y`` is a number, R2 is
    in place of the AUC in each of them; chance is 0.

    Parameters
    ----------
    classes : tuple of str
        The classes; of two, the second is the positive one, which the scores are of.
        Empty for numbers.
    n_rows, n_subjects : int
        Size of the data.
    auc : Score
        Without correction; NaN for numbers, whose R2 is `r2`.
    p_value : float
        Fraction of permutations of the labels with a score as high.
    corrected_auc : Score or None
        With confounds and site regressed out of the features in each fold, over pairs
        of rows at one site; None without confounds and site, NaN without such pairs.
    corrected_p_value : float or None
        From permutations within sites; NaN if the score is.
    confound_auc : Score or None
        Of confounds and site alone, without features.
    site_decoding : Score or None
        Balanced accuracy of reading the site from the features; None without sites,
        NaN with too few subjects.
    site_chance : float or None
        Balanced accuracy of guessing the site.
    site_association : float or None
        Cramer's V of site and label, from 0 to 1, over subjects at each site.
    leave_one_site_out : tuple of SiteScore
        Trained on the other sites, tested at each; empty without sites.
    learning_curve : tuple of LearningPoint
        AUC by number of labelled subjects.
    calibration : Calibration or None
        Of the probabilities of two classes, else None.
    probabilities : ndarray of shape (n_rows,) or (n_rows, n_classes)
        Mean over repeats: of the second of two classes, else of each class. Empty for
        numbers.
    common : CommonSubset or None
        Score among rows of the same modalities; None unless modalities go with label,
        site or session.
    findings : tuple of str
        Problems of the data, each also issued as a warning.
    predictions : ndarray of shape (n_rows,) or None
        Of numbers, mean over repeats.
    balanced_accuracy : Score
        Mean recall of the classes; chance is one over their number.
    confusion : ndarray of shape (n_classes, n_classes) or None
        Rows of each class, and the class that was predicted for them: counts, mean
        over repeats.
    r2, mae, r : Score
        Of numbers: explained fraction of the variance, mean absolute error in units of
        ``y``, and Pearson's correlation.
    labels : ndarray of shape (n_rows,) or None
        Whether a row is of the positive one of two classes, its index in `classes`, or
        its number.
    groups : ndarray of shape (n_rows,) or None
        Code of the subject of each row.
    scores : DataFrame or None
        ``metric``, ``value``, and the ends ``low`` and ``high`` of its interval over
        subjects.
    baselines : DataFrame or None
        ``baseline``, ``metric``, ``value``, ``low`` and ``high`` of the probe of each
        column of ``baselines`` and of all of them; ``difference`` (features minus
        baseline) with ``difference_low``, ``difference_high`` and ``p``, on the same
        draws of subjects.
    roc : tuple of RocCurve
        Of `probabilities`: of the positive one of two classes, else of each class
        against the others. Folds are pooled, so that its area may differ from `auc`.
    calibrations : tuple of Calibration
        Of the same classes.
    operating_point : OperatingPoint or None
        Sensitivity and specificity at ``threshold``, of two classes.
    bias : PredictionBias or None
        Of numbers: slope of the errors, and gaps corrected for it.
    confidence : float
        Of all intervals.
    """

    classes: tuple[str, ...]
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
    calibration: Calibration | None
    probabilities: NDArray[np.float64]
    findings: tuple[str, ...]
    common: CommonSubset | None = None
    predictions: NDArray[np.float64] | None = None
    balanced_accuracy: Score = _UNDEFINED
    confusion: NDArray[np.float64] | None = None
    r2: Score = _UNDEFINED
    mae: Score = _UNDEFINED
    r: Score = _UNDEFINED
    labels: NDArray[Any] | None = None
    groups: NDArray[np.intp] | None = None
    scores: pd.DataFrame | None = None
    baselines: pd.DataFrame | None = None
    roc: tuple[RocCurve, ...] = ()
    calibrations: tuple[Calibration, ...] = ()
    operating_point: OperatingPoint | None = None
    bias: PredictionBias | None = None
    confidence: float = 0.95

    @property
    def pos_label(self) -> str | None:
        """The positive one of two classes, which the scores are of."""
        return self.classes[1] if len(self.classes) == 2 else None

    @property
    def metric(self) -> str:
        """Name of the score: AUC, or R2 for numbers."""
        return "AUC" if self.classes else "R2"

    @property
    def score(self) -> Score:
        """The AUC, or R2 for numbers."""
        return self.auc if self.classes else self.r2

    def at_threshold(self, threshold: float) -> OperatingPoint:
        """Sensitivity and specificity of deciding at a probability.

        Parameters
        ----------
        threshold : float
            Least probability of the positive class that decides for it.

        Returns
        -------
        OperatingPoint
            Both rates, with intervals over subjects.

        Raises
        ------
        ConfigError
            If the threshold is not between 0 and 1.
        InputError
            If ``y`` had other than two classes.
        """
        if self.labels is None or self.groups is None or self.pos_label is None:
            raise InputError("threshold: expected a y of two classes.")
        known = self.labels, self.probabilities, self.groups
        return rates_at(threshold, *known, self.confidence)

    def interval(self, metric: str) -> str:
        """Format a score with its interval over subjects; empty if there is none."""
        if self.scores is None:
            return ""
        line = self.scores[self.scores["metric"] == metric].iloc[0]
        if np.isnan(line["low"]):
            return ""
        return f"[{format_number(line['low'])}, {format_number(line['high'])}]"

    def summary(self) -> str:
        """Summarise the results as a few lines of text."""
        lines = [
            f"{self._describe_label()}: {self.n_rows} rows of "
            f"{self.n_subjects} subjects",
            f"{self.metric} {self.score} (standard error), {_format_p(self.p_value)}",
            *self._other_scores(),
            *self._intervals(),
        ]
        if self.operating_point is not None:
            lines.append(str(self.operating_point))
        if self.bias is not None:
            lines.append(
                f"slope of the error {self.bias.slope}, after correction "
                f"{self.bias.corrected_slope}"
            )
        lines += self._baseline_lines()
        if self.confound_auc is not None:
            lines.append(f"confounds and site alone: {self.metric} {self.confound_auc}")
        if self.corrected_auc is not None and self.corrected_p_value is not None:
            lines.append(
                f"corrected for them: {self.metric} {self.corrected_auc}, "
                f"{_format_p(self.corrected_p_value)}"
            )
        if self.common is not None:
            lines.append(str(self.common))
        if self.site_decoding is not None and self.site_chance is not None:
            lines.append(
                f"site read from the features: {self.site_decoding} "
                f"(chance {self.site_chance:.2f})"
            )
        lines += [
            f"left-out site {site.site}: {self.metric} {format_number(site.auc)} "
            f"({site.n_rows} rows)"
            for site in self.leave_one_site_out
        ]
        lines += [
            f"{p.n_labels} labels: {self.metric} {p.auc}" for p in self.learning_curve
        ]
        lines += [f"note: {finding}" for finding in self.findings]
        return "\n".join(lines)

    def _headline(self) -> str:
        return (
            f"{self._describe_label()}, {self.n_subjects} subjects, "
            f"{self.metric} {self.score}, {_format_p(self.p_value)}"
        )

    def _describe_label(self) -> str:
        if len(self.classes) == 2:
            return f"{self.classes[1]} against {self.classes[0]}"
        return ", ".join(self.classes) or "a number"

    def _intervals(self) -> list[str]:
        if self.scores is None:
            return []
        known = [(n, self.interval(n)) for n in self.scores["metric"]]
        texts = ", ".join(f"{name} {ends}" for name, ends in known if ends)
        return [f"{self.confidence:.0%} intervals over subjects: {texts}"] * bool(texts)

    def _baseline_lines(self) -> list[str]:
        if self.baselines is None:
            return []
        return [
            f"{row['baseline']} alone: {row['metric']} {format_number(row['value'])} "
            f"[{format_number(row['low'])}, {format_number(row['high'])}]; features "
            f"minus this {row['difference']:+.2f} "
            f"[{format_number(row['difference_low'])}, "
            f"{format_number(row['difference_high'])}], {_format_p(row['p'])}"
            for row in self.baselines.to_dict("records")
        ]

    def _other_scores(self) -> list[str]:
        if not self.classes:
            return [f"mean absolute error {self.mae}, r {self.r}"]
        if np.isnan(self.balanced_accuracy.value):
            return []
        return [f"balanced accuracy {self.balanced_accuracy}"]


def _format_p(p_value: float) -> str:
    text = format_number(p_value, 3)
    return f"p {text}" if np.isnan(p_value) else f"p = {text}"
