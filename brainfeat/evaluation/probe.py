"""Evaluate features by a linear probe, with the checks that reviewers ask for."""

__all__ = ["evaluate_probe"]

import warnings
from functools import partial
from typing import Any

import numpy as np

from brainfeat.evaluation.cross_validation import (
    CrossValidation,
    calibrate,
    cross_validate,
    decode_site,
    leave_one_site_out,
    measure_learning_curve,
)
from brainfeat.evaluation.folds import check_repeats, repeat_folds
from brainfeat.evaluation.labelled import LabelledFeatures
from brainfeat.evaluation.leakage import site_association
from brainfeat.evaluation.scores import ProbeEvaluation
from brainfeat.exceptions import ConfoundingWarning

_CONFOUNDED_P = 0.01
_TELLING_AUC = 0.65  # confounds alone that reach this are worth a note


def evaluate_probe(
    X: Any,
    y: Any,
    groups: Any = None,
    site: Any = None,
    confounds: Any = None,
    *,
    n_repeats: int = 5,
    n_permutations: int = 200,
    random_state: int = 0,
) -> ProbeEvaluation:
    """Evaluate how well a linear probe reads a label from features.

    The probe is ridge regression on standardised features. Cross-validation is nested
    (the penalty is chosen inside each training fold), grouped (all rows of a subject
    are on one side) and stratified. Beside the score come what a reviewer asks for:
    a permutation test, a learning curve, calibration, and, with sites or confounds,
    what those alone can tell, a score that is corrected for them, the score at each
    site that was left out, and how well the site can be read from the features.

    Parameters
    ----------
    X : array-like of shape (n_rows, n_features)
        Features, such as `BrainFoundEmbedder` gives.
    y : array-like of shape (n_rows,)
        Two classes; the one that comes last in the alphabet is the positive one.
    groups : array-like of shape (n_rows,), optional
        Subject of each row. None takes each row as a subject of its own, but for
        rows with equal features.
    site : array-like of shape (n_rows,), optional
        Site or scanner of each row.
    confounds : DataFrame or array-like of shape (n_rows, n_confounds), optional
        Further confounds, such as age and sex: numbers or categories.
    n_repeats : int
        Repeats of the cross-validation, each with other folds.
    n_permutations : int
        Permutations of the labels of whole subjects.
    random_state : int
        Seed of folds, draws and permutations.

    Returns
    -------
    ProbeEvaluation
        Scores with standard errors, and what a reader must know.

    Raises
    ------
    ConfigError
        If a number of repeats or permutations is not positive.
    InputError
        If lengths differ, values are missing, there are not two classes, a class has a
        single subject, or an index tells another order than that of ``X``.

    Warns
    -----
    LeakageWarning
        If rows of different subjects have the same features.
    ConfoundingWarning
        If site or confounds give the label away.

    Notes
    -----
    The corrected score regresses confounds and sites out of the features in each
    fold, and compares patients and controls of one site only, so that what a site
    does to all its rows counts for nothing. Where site and label are fully
    confounded there are no such pairs, and it is NaN: no correction can help then.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(60) % 2
    >>> X = rng.normal(size=(60, 8)) + y[:, None]
    >>> found = evaluate_probe(X, y, n_repeats=2, n_permutations=50)
    >>> bool(found.auc.value > 0.9), bool(found.p_value < 0.05)
    (True, True)
    """
    check_repeats(n_repeats, n_permutations)
    data = LabelledFeatures.check(X, y, groups, site, confounds)
    repeats = repeat_folds(data.labels, data.groups, n_repeats, random_state)
    run = partial(cross_validate, data, repeats=repeats, seed=random_state)
    naive = run(features="as they are", n_permutations=n_permutations)
    corrected = confounded = None
    if data.confounds.shape[1]:
        corrected = run(features="adjusted", n_permutations=n_permutations)
        confounded = run(features="confounds", n_permutations=1)
    association = _describe_sites(data)
    findings = [*association.pop("findings"), *_compare(naive, corrected, confounded)]
    for finding in findings:
        warnings.warn(finding, ConfoundingWarning, stacklevel=2)
    return ProbeEvaluation(
        classes=data.classes,
        n_rows=len(data.labels),
        n_subjects=len(np.unique(data.groups)),
        auc=naive.auc,
        p_value=naive.p_value,
        corrected_auc=None if corrected is None else corrected.auc,
        corrected_p_value=None if corrected is None else corrected.p_value,
        confound_auc=None if confounded is None else confounded.auc,
        **_test_sites(data, random_state),
        **association,
        learning_curve=measure_learning_curve(data, seed=random_state),
        calibration=calibrate(data.labels, naive.probabilities),
        probabilities=naive.probabilities,
        findings=(*data.findings, *findings),
    )


def _describe_sites(data: LabelledFeatures) -> dict[str, Any]:
    """Say whether the site gives the label away."""
    if data.site is None or len(data.site_names) < 2:
        return {"site_association": None, "findings": []}
    # Scans of a person at one site are no further evidence.
    visits = np.column_stack([data.groups, data.site, data.labels])
    _, site, labels = np.unique(visits, axis=0).T
    v, p_value = site_association(labels, site)
    findings = []
    if p_value < _CONFOUNDED_P:
        shares = ", ".join(
            f"{name} {labels[site == code].mean():.0%}"
            for code, name in enumerate(data.site_names)
        )
        findings.append(
            f"site and label are confounded (Cramer's V {v:.2f}, p = {p_value:.1g}): "
            f"share of {data.classes[1]} by site: {shares}."
        )
    return {"site_association": v, "findings": findings}


def _test_sites(data: LabelledFeatures, seed: int) -> dict[str, Any]:
    if data.site is None or len(data.site_names) < 2:
        return {
            "site_decoding": None,
            "site_chance": None,
            "leave_one_site_out": (),
        }
    return {
        "site_decoding": decode_site(data.features, data.site, data.groups, seed=seed),
        "site_chance": 1.0 / len(data.site_names),
        "leave_one_site_out": leave_one_site_out(data, seed=seed),
    }


def _compare(
    naive: CrossValidation,
    corrected: CrossValidation | None,
    confounded: CrossValidation | None,
) -> list[str]:
    findings = []
    if confounded is not None and confounded.auc.value >= _TELLING_AUC:
        findings.append(
            f"confounds and site alone reach an AUC of {confounded.auc.value:.2f}, "
            f"without any image; the features {naive.auc.value:.2f}."
        )
    if corrected is None:
        return findings
    if np.isnan(corrected.auc.value):
        findings.append(
            "no site has both classes in a test fold: nothing can tell disease and "
            "site apart."
        )
    elif naive.p_value <= 0.05 < corrected.p_value:
        falls = corrected.auc.value < naive.auc.value
        findings.append(
            f"the AUC {'falls' if falls else 'goes'} from {naive.auc.value:.2f} to "
            f"{corrected.auc.value:.2f} once confounds and site are accounted for "
            f"(p = {corrected.p_value:.2f}): "
            + ("the features may read those." if falls else "too few rows to tell.")
        )
    return findings
