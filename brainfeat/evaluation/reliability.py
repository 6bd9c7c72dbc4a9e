"""Agreement of features and predictions between repeat scans of a subject."""

__all__ = ["Reliability", "evaluate_reliability"]

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brainfeat.display.summarised import Summarised, format_facts
from brainfeat.evaluation.columns import as_codes, check_order
from brainfeat.evaluation.cross_validation import decode_site
from brainfeat.evaluation.labelled import as_features
from brainfeat.evaluation.scores import Score, format_number
from brainfeat.exceptions import InputError
from brainfeat.metrics import intraclass_correlation, retrieval_accuracy

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Reliability(Summarised):
    """Agreement of repeat scans.

    Parameters
    ----------
    n_subjects, n_scans : int
        Subjects with repeat scans, and the scans compared per subject.
    feature_icc : ndarray of shape (n_features,)
        ICC(2,1) of each feature.
    prediction_icc : float or None
        ICC(2,1) of the predictions, if given.
    retrieval : float
        Fraction of scans whose nearest other scan is of the same subject.
    retrieval_chance : float
        Expected retrieval of a random choice.
    site_decoding : Score or None
        Balanced accuracy of reading the site from the features; None with a single
        site, NaN with fewer than four subjects, or two at a site.
    site_chance : float or None
        Balanced accuracy of guessing the site.
    """

    n_subjects: int
    n_scans: int
    feature_icc: Floats
    prediction_icc: float | None
    retrieval: float
    retrieval_chance: float
    site_decoding: Score | None
    site_chance: float | None

    def summary(self) -> str:
        """Summarise the agreement as lines of text."""
        low, middle, high = np.percentile(self.feature_icc, (25, 50, 75))
        facts = {
            "subjects": f"{self.n_subjects} with {self.n_scans} scans each",
            "feature ICC": f"median {middle:.2f}, quartiles {low:.2f} to {high:.2f}, "
            f"of {len(self.feature_icc)} features",
            "retrieval": f"{self.retrieval:.2f} (chance {self.retrieval_chance:.2f})",
        }
        if self.prediction_icc is not None:
            facts["prediction ICC"] = format_number(self.prediction_icc)
        if self.site_decoding is not None and self.site_chance is not None:
            chance = f"chance {self.site_chance:.2f}"
            facts["site decoding"] = f"{self.site_decoding} ({chance})"
        return format_facts(facts.items())

    def _headline(self) -> str:
        return (
            f"{self.n_subjects} subjects with {self.n_scans} scans each, median ICC "
            f"{np.median(self.feature_icc):.2f}, retrieval {self.retrieval:.2f}"
        )


def evaluate_reliability(
    X: ArrayLike,
    subjects: Any,
    *,
    site: Any = None,
    predictions: Any = None,
    random_state: int = 0,
) -> Reliability:
    """Measure agreement over repeat scans.

    Parameters
    ----------
    X : array-like of shape (n_rows, n_features)
        Features.
    subjects : array-like of shape (n_rows,)
        Subject of each row; those with one scan count for retrieval and site only.
    site : array-like of shape (n_rows,), optional
        Site of each row; the scans of a subject are compared in the order of sites.
    predictions : array-like of shape (n_rows,), optional
        Held-out predictions of a classifier for each row.
    random_state : int
        Seed of the folds of site decoding.

    Returns
    -------
    Reliability
        Agreement of features and predictions.

    Raises
    ------
    InputError
        If fewer than two subjects have repeat scans, lengths differ, a value is
        missing, or an index has another order than that of ``X``.
    """
    features = as_features(X)
    check_order(X, subjects=subjects, site=site, predictions=predictions)
    n_rows = len(features)
    subject_codes, _ = as_codes("subjects", subjects, n_rows)
    codes = None if site is None else as_codes("site", site, n_rows)[0]
    repeats = _repeat_rows(subject_codes, codes)
    values = features[repeats]  # subjects, scans, features
    prediction_icc = None
    if predictions is not None:
        given = np.asarray(predictions, dtype=np.float64)
        if given.shape != (n_rows,):
            raise InputError(
                f"predictions: expected a number for each of {n_rows} rows, got shape "
                f"{given.shape}."
            )
        prediction_icc = float(intraclass_correlation(given[repeats]))
    n_others = np.bincount(subject_codes)[subject_codes] - 1
    # Scans without another one of the same subject are not queries.
    chance = float(n_others[n_others > 0].mean() / (n_rows - 1))
    decoding = site_chance = None
    if codes is not None and codes.max() > 0:
        decoding = decode_site(features, codes, subject_codes, seed=random_state)
        site_chance = 1.0 / int(codes.max() + 1)
    return Reliability(
        n_subjects=values.shape[0],
        n_scans=values.shape[1],
        feature_icc=intraclass_correlation(values),
        prediction_icc=prediction_icc,
        retrieval=retrieval_accuracy(features, subject_codes),
        retrieval_chance=chance,
        site_decoding=decoding,
        site_chance=site_chance,
    )


def _repeat_rows(subjects: Rows, site: Rows | None) -> Rows:
    """Rows (n_subjects, n_scans) of repeat scans, by site; as many as all have."""
    order = np.argsort(np.zeros_like(subjects) if site is None else site, kind="stable")
    by_subject = order[np.argsort(subjects[order], kind="stable")]
    rows = np.split(by_subject, np.cumsum(np.bincount(subjects))[:-1])
    repeats = [scans for scans in rows if len(scans) > 1]
    if len(repeats) < 2:
        raise InputError(
            f"subjects: expected at least two with repeat scans, got {len(repeats)}."
        )
    n_scans = min(map(len, repeats))
    return np.stack([scans[:n_scans] for scans in repeats])
