"""Whether features and predictions of a person stay the same from scan to scan."""

__all__ = ["Reliability", "evaluate_reliability"]

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brainfeat.evaluation.columns import as_codes, check_order
from brainfeat.evaluation.cross_validation import decode_site
from brainfeat.evaluation.labelled import as_features
from brainfeat.evaluation.scores import Score
from brainfeat.exceptions import InputError
from brainfeat.metrics import intraclass_correlation, retrieval_accuracy

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Reliability:
    """Agreement of repeat scans.

    Parameters
    ----------
    n_subjects, n_scans : int
        People who were scanned repeatedly, and the scans of each that were compared.
    feature_icc : ndarray of shape (n_features,)
        ICC(2,1) of each feature.
    prediction_icc : float or None
        That of the predictions, if they were given.
    retrieval : float
        Share of scans whose nearest other scan is of the same person.
    retrieval_chance : float
        What a random choice would reach.
    site_decoding : Score or None
        Balanced accuracy of reading the site from the features; None with a single
        site, NaN with fewer than four people or two at a site.
    site_chance : float or None
        That of guessing.
    """

    n_subjects: int
    n_scans: int
    feature_icc: Floats
    prediction_icc: float | None
    retrieval: float
    retrieval_chance: float
    site_decoding: Score | None
    site_chance: float | None


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
        Who was scanned; those with one scan are used for retrieval and site only.
    site : array-like of shape (n_rows,), optional
        Where; scans of a subject are compared in the order of their sites.
    predictions : array-like of shape (n_rows,), optional
        What a classifier says of each scan; held out, or it says too much.
    random_state : int
        Seed of the folds of the site's decoding.

    Returns
    -------
    Reliability
        Agreement of features and predictions.

    Raises
    ------
    InputError
        If fewer than two people were scanned twice, lengths differ, a value is
        missing, or an index tells another order than that of ``X``.
    """
    features = as_features(X)
    check_order(X, subjects=subjects, site=site, predictions=predictions)
    n_rows = len(features)
    people, _ = as_codes("subjects", subjects, n_rows)
    codes = None if site is None else as_codes("site", site, n_rows)[0]
    repeats = _repeat_rows(people, codes)
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
    n_others = np.bincount(people)[people] - 1
    # Those whose person has no other scan are not looked for.
    chance = float(n_others[n_others > 0].mean() / (n_rows - 1))
    decoding = site_chance = None
    if codes is not None and codes.max() > 0:
        decoding = decode_site(features, codes, people, seed=random_state)
        site_chance = 1.0 / int(codes.max() + 1)
    return Reliability(
        n_subjects=values.shape[0],
        n_scans=values.shape[1],
        feature_icc=intraclass_correlation(values),
        prediction_icc=prediction_icc,
        retrieval=retrieval_accuracy(features, people),
        retrieval_chance=chance,
        site_decoding=decoding,
        site_chance=site_chance,
    )


def _repeat_rows(people: NDArray[Any], site: NDArray[Any] | None) -> NDArray[np.intp]:
    # Of shape (n_subjects, n_scans): as many scans of each as all have.
    order = np.arange(len(people)) if site is None else np.argsort(site, kind="stable")
    by_person = order[np.argsort(people[order], kind="stable")]
    rows = np.split(by_person, np.cumsum(np.bincount(people))[:-1])
    repeated = [found for found in rows if len(found) > 1]
    if len(repeated) < 2:
        raise InputError(
            f"expected two people who were scanned twice, got {len(repeated)}."
        )
    n_scans = min(map(len, repeated))
    return np.stack([found[:n_scans] for found in repeated])
