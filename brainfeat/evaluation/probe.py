"""Evaluate a linear probe, with permutation tests, confounds and sites."""

__all__ = ["evaluate_probe"]

import warnings
from functools import partial
from typing import Any

import numpy as np

from brainfeat.evaluation.acquisition import (
    Acquisition,
    largest_common_subset,
)
from brainfeat.evaluation.cross_validation import (
    CrossValidation,
    cross_validate,
    decode_site,
    leave_one_site_out,
    measure_learning_curve,
)
from brainfeat.evaluation.drawn_scores import check_baselines, check_draws
from brainfeat.evaluation.folds import check_repeats, repeat_folds
from brainfeat.evaluation.labelled import LabelledFeatures
from brainfeat.evaluation.prediction_details import describe_predictions
from brainfeat.evaluation.scores import (
    CommonSubset,
    ProbeEvaluation,
    format_number,
)
from brainfeat.evaluation.sites import associate_sites
from brainfeat.evaluation.tasks import Kind
from brainfeat.exceptions import ConfoundingWarning

# Scores of confounds alone that are reported, and how they are named.
_REPORTED = {"AUC": ("an AUC", 0.65), "R2": ("an R2", 0.1)}


def evaluate_probe(  # noqa: PLR0913  known facts of the rows are one flat list
    X: Any,
    y: Any,
    groups: Any = None,
    site: Any = None,
    confounds: Any = None,
    *,
    task: Kind = "auto",
    pos_label: Any = None,
    modalities: Any = None,
    session: Any = None,
    voxel_mm: Any = None,
    baselines: Any = None,
    threshold: float = 0.5,
    n_repeats: int = 5,
    n_permutations: int = 200,
    n_bootstraps: int = 1000,
    confidence: float = 0.95,
    random_state: int = 0,
) -> ProbeEvaluation:
    """Evaluate how well a linear probe reads a label from features.

    The probe is ridge regression on standardised features: of a number, of two
    classes, or of each of several classes against the rest, calibrated together.
    Cross-validation is nested (the penalty is selected within each training fold),
    grouped (all rows of a subject are on one side) and stratified by class. The score
    comes with a permutation test, a learning curve and, for two classes, calibration;
    with sites or confounds, also with the score of these alone, a score corrected for
    them, the score at each left-out site, and how well the site can be read from the
    features.

    Parameters
    ----------
    X : array-like of shape (n_rows, n_features)
        Features, such as those of `BrainFoundEmbedder`.
    y : array-like of shape (n_rows,)
        Two classes, several classes, or numbers such as age.
    groups : array-like of shape (n_rows,), optional
        Subject of each row. By default each row is a subject, except rows with
        equal features.
    site : array-like of shape (n_rows,), optional
        Site or scanner of each row.
    confounds : DataFrame or array-like of shape (n_rows, n_confounds), optional
        Further confounds, such as age and sex: numbers or categories.
    task : {"auto", "binary", "classes", "numbers"}
        What ``y`` is. By default, more than ten different numbers, or more than two
        with fractions, are numbers; all else are classes.
    pos_label : str, int or bool, optional
        The positive one of two classes. By default 1 of 0 and 1 (the larger of two
        numbers), True, or the second of the sorted names; but if that is a usual name
        of controls (CN, HC, NC, control, healthy, ...) and the first is not, the first.
    modalities : array-like of str of shape (n_rows,), optional
        Modalities that each row has, as in the column ``modalities`` of a table, such
        as ``"T1w+FLAIR"``: a missing one shows in an embedding.
    session : array-like of shape (n_rows,), optional
        Session of each row, which modalities may go with.
    voxel_mm : array-like of str of shape (n_rows,), optional
        Native voxel edges, as in the column ``qc_voxel_mm``, such as
        ``"1.0x1.0x1.2"``.
    baselines : DataFrame or array-like of shape (n_rows, n_baselines), optional
        What is known without an embedding, such as age, sex, site, ``qc_brain_ml`` and
        ``modalities``. The probe of each column alone, and of all, is scored by the
        same folds, to compare. Missing values are a category of their own.
    threshold : float
        Probability of the positive class from which `operating_point` decides for it.
    n_repeats : int
        Repeats of the cross-validation, each with other folds.
    n_permutations : int
        Permutations of the labels of whole subjects.
    n_bootstraps : int
        Draws of subjects, for intervals.
    confidence : float
        Of the intervals, between 0 and 1.
    random_state : int
        Seed of folds, draws and permutations.

    Returns
    -------
    ProbeEvaluation
        Scores with standard errors and intervals, and problems of the data.

    Raises
    ------
    ConfigError
        If a number of repeats or draws is not positive, or ``confidence`` or
        ``threshold`` is not between 0 and 1.
    InputError
        If lengths or index orders differ, values are missing, all labels are equal or
        are not what ``task`` says, ``pos_label`` is none of two classes, or a class has
        a single subject.

    Warns
    -----
    LeakageWarning
        If rows of different subjects have the same features.
    ConfoundingWarning
        If site or confounds predict the label, modalities go with label, site or
        session, or the slice thickness goes with the label.

    Notes
    -----
    The corrected score regresses confounds and sites out of the features in each
    fold, and compares patients and controls of one site only, so that the effect of a
    site on all its rows does not count. If site and label are fully confounded there
    are no such pairs, and the score is NaN: no correction is possible.

    If modalities go with label, site or session, the probe is evaluated again in the
    rows of the same modalities that have most subjects of the rarer class.

    Standard errors are over folds [1]_. Intervals are over subjects, who are drawn with
    all of their rows, and are widened for what folds have in common, as those of
    `compare_embeddings`.

    References
    ----------
    .. [1] Nadeau & Bengio, "Inference for the generalization error", Machine Learning
       52, 2003. doi:10.1023/A:1024068626366

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(60) % 2
    >>> X = rng.normal(size=(60, 8)) + y[:, None]
    >>> result = evaluate_probe(X, y, n_repeats=2, n_permutations=50)
    >>> bool(result.auc.value > 0.9), bool(result.p_value < 0.05)
    (True, True)
    """
    check_repeats(n_repeats, n_permutations)
    check_draws(n_bootstraps, confidence, threshold)
    data = LabelledFeatures.check(X, y, groups, site, confounds, pos_label, kind=task)
    known = {"modalities": modalities, "session": session, "voxel_mm": voxel_mm}
    acquisition = Acquisition.check(X, len(data.labels), **known)
    columns = check_baselines(baselines, X, len(data.labels))
    strata = data.task.strata(data.labels)
    repeats = repeat_folds(strata, data.groups, n_repeats, random_state)
    run = partial(cross_validate, data, repeats=repeats, seed=random_state)
    naive = run(probe_input="features", n_permutations=n_permutations)
    settings = (threshold, n_bootstraps, confidence, random_state)
    details = describe_predictions(data, naive, repeats, columns, *settings)
    corrected = confounded = None
    if data.confounds.shape[1]:
        corrected = run(probe_input="adjusted", n_permutations=n_permutations)
        confounded = run(probe_input="confounds", n_permutations=1)
    cramers_v, findings = associate_sites(data)
    findings += _compare(naive, corrected, confounded)
    common = None
    if found := acquisition.find_modality_associations(data):
        sizes = (n_repeats, n_permutations, random_state)
        common = _evaluate_common(data, acquisition, *sizes)
        findings += [*found, _describe_common(common, naive)]
    findings += acquisition.find_thickness_associations(data)
    for finding in findings:
        warnings.warn(finding, ConfoundingWarning, stacklevel=2)
    return ProbeEvaluation(
        classes=data.classes,
        n_rows=len(data.labels),
        n_subjects=len(np.unique(data.groups)),
        p_value=naive.p_value,
        **details,
        **_name_corrected(corrected, confounded),
        site_association=cramers_v,
        **_score_sites(data, random_state),
        learning_curve=measure_learning_curve(data, seed=random_state),
        probabilities=naive.probabilities,
        common=common,
        findings=(*data.findings, *findings),
    )


def _name_corrected(
    corrected: CrossValidation | None, confounded: CrossValidation | None
) -> dict[str, Any]:
    return {
        "corrected_auc": None if corrected is None else corrected.auc,
        "corrected_p_value": None if corrected is None else corrected.p_value,
        "confound_auc": None if confounded is None else confounded.auc,
    }


def _evaluate_common(
    data: LabelledFeatures,
    acquisition: Acquisition,
    n_repeats: int,
    n_permutations: int,
    seed: int,
) -> CommonSubset | None:
    """Evaluate the probe in rows of the same modalities; None if that is impossible."""
    if acquisition.modalities is None:
        return None
    codes, names = acquisition.modalities
    rows = largest_common_subset(acquisition.modalities, data)
    if rows is None:
        return None
    subset = data.take(rows)
    strata = subset.task.strata(subset.labels)
    result = cross_validate(
        subset,
        probe_input="features",
        repeats=repeat_folds(strata, subset.groups, n_repeats, seed),
        n_permutations=n_permutations,
        seed=seed,
    )
    sizes = len(rows), len(np.unique(subset.groups))
    metric = data.task.metrics[0]
    return CommonSubset(
        names[codes[rows[0]]], *sizes, result.auc, result.p_value, metric
    )


def _describe_common(common: CommonSubset | None, naive: CrossValidation) -> str:
    advice = "Embed rows of the same modalities by --require or --only."
    if common is None:
        return (
            "no rows of the same modalities have two subjects of each class: the "
            f"effects of class and modalities cannot be separated. {advice}"
        )
    return f"{common}, against {format_number(naive.auc.value)} in all rows. {advice}"


def _score_sites(data: LabelledFeatures, seed: int) -> dict[str, Any]:
    if data.site is None or len(data.site_names) < 2:
        return {"site_decoding": None, "site_chance": None, "leave_one_site_out": ()}
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
    name = next(iter(naive.scores))
    metric, limit = _REPORTED[name]
    if confounded is not None and confounded.auc.value >= limit:
        findings.append(
            f"confounds and site alone reach {metric} of {confounded.auc.value:.2f}, "
            f"without any image; the features reach {naive.auc.value:.2f}."
        )
    if corrected is None:
        return findings
    if np.isnan(corrected.auc.value):
        findings.append(
            "no site has both classes in a test fold: the effects of class and site "
            "cannot be separated."
        )
    elif naive.p_value <= 0.05 < corrected.p_value:
        falls = corrected.auc.value < naive.auc.value
        findings.append(
            f"the {name} {'falls' if falls else 'changes'} from "
            f"{naive.auc.value:.2f} to {corrected.auc.value:.2f} after correction for "
            f"confounds and site (p = {corrected.p_value:.2f}): "
            + ("the features may encode these." if falls else "there are too few rows.")
        )
    return findings
