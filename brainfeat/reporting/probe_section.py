"""The section of a report about a linear probe of the label."""

import warnings
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainfeat.evaluation import ProbeEvaluation, evaluate_probe
from brainfeat.evaluation.scores import Score, format_number
from brainfeat.exceptions import ConfoundingWarning, InputError, LeakageWarning
from brainfeat.reporting.cohort import Cohort
from brainfeat.reporting.figures import legend_html
from brainfeat.reporting.page import notes, score_table
from brainfeat.reporting.plots import learning_curve_svg
from brainfeat.reporting.probe_plots import (
    calibrations_svg,
    confusion_html,
    identity_svg,
    roc_svg,
)

__all__ = ["probe_section"]

_FEWEST_OF_CLASS = 5
_FEWEST_NUMBERS = 20
_MOST_CLASSES = 10
_MANY_ROWS = 3000  # whose fits take long, and need fewer draws
# Known without an embedding, if the table has them.
_BASELINES = ("qc_brain_ml", "modalities")


def probe_section(cohort: Cohort) -> tuple[ProbeEvaluation | None, str]:
    """Evaluate a probe of the label; the HTML says why, if there is none."""
    if cohort.label is None:
        return None, (
            "<p>No labels. Pass a table with a column such as <code>diagnosis</code> "
            "by <code>--labels</code> to evaluate a linear probe.</p>"
        )
    rows = _complete_rows(cohort)
    left_out = notes(_describe_left_out(cohort, rows))
    labels = _read_labels(cohort)
    if reason := _explain_unfit(labels[rows]):
        return None, (
            f"{left_out}<p>Column <code>{escape(cohort.label)}</code> was not probed: "
            f"{reason}.</p>"
        )
    try:
        evaluation = _evaluate(cohort, rows, labels)
    except InputError as error:
        return None, f"{left_out}<p>Not evaluated: {escape(str(error))}</p>"
    names = [n for n, is_used in zip(cohort.names, rows, strict=True) if is_used]
    parts = [
        left_out,
        notes(text[:1].upper() + text[1:] for text in evaluation.findings),
        _scores(evaluation, cohort),
        _explain(evaluation, cohort),
        _decisions(evaluation),
        _curves(evaluation, names),
    ]
    return evaluation, "\n".join(parts)


def _read_labels(cohort: Cohort) -> "pd.Series[Any]":
    """Return labels as numbers if they are a quantity, else as text."""
    values = cohort.known[cohort.label]
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.notna().equals(values.notna()):
        different = np.unique(numbers.dropna())
        has_fractions = bool((different != np.round(different)).any())
        if len(different) > _MOST_CLASSES or (has_fractions and len(different) > 2):
            return numbers
    return cohort.texts(str(cohort.label))


def _explain_unfit(labels: "pd.Series[Any]") -> str:
    """Say why labels cannot be probed; empty if they can."""
    if pd.api.types.is_numeric_dtype(labels.dtype):
        if len(labels) >= _FEWEST_NUMBERS:
            return ""
        return f"expected at least {_FEWEST_NUMBERS} numbers, got {len(labels)}"
    counts = labels.value_counts()
    is_few = 2 <= len(counts) <= _MOST_CLASSES
    if is_few and counts.min() >= _FEWEST_OF_CLASS:
        return ""
    classes = ", ".join(f"{name} ({n})" for name, n in counts.iloc[:12].items())
    return (
        f"expected numbers, or two to {_MOST_CLASSES} classes with at least "
        f"{_FEWEST_OF_CLASS} rows each, got {escape(classes) or 'none'}"
    )


def _evaluate(
    cohort: Cohort, rows: NDArray[np.bool_], labels: "pd.Series[Any]"
) -> ProbeEvaluation:
    known = cohort.known[rows]
    is_number = pd.api.types.is_numeric_dtype(labels.dtype)
    with warnings.catch_warnings():
        # The page shows them as notes.
        warnings.simplefilter("ignore", ConfoundingWarning)
        warnings.simplefilter("ignore", LeakageWarning)
        return evaluate_probe(
            cohort.embeddings[rows],
            labels[rows],
            groups=np.asarray(cohort.participants)[rows],
            site=None if cohort.site is None else cohort.texts(cohort.site)[rows],
            confounds=known[cohort.confounds] if cohort.confounds else None,
            task="numbers" if is_number else "classes",
            pos_label=cohort.pos_label,
            baselines=_baselines(cohort, rows),
            n_permutations=200 if rows.sum() <= _MANY_ROWS else 50,
            n_bootstraps=1000 if rows.sum() <= _MANY_ROWS else 300,
            **_acquisition(cohort, rows),
        )


def _baselines(cohort: Cohort, rows: NDArray[np.bool_]) -> pd.DataFrame | None:
    """Return columns to compare with: age, sex, site, brain volume, modalities."""
    names = [*_corrected_for(cohort), *_BASELINES]
    table = cohort.known[rows]
    names = [
        name
        for name in dict.fromkeys(names)
        if name in table and name != cohort.label and len(table[name].unique()) > 1
    ]
    return table[names] if names else None


def _acquisition(cohort: Cohort, rows: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the arguments of `evaluate_probe` about how rows were acquired."""
    columns = ("modalities", "session", "voxel_mm")
    names = ("modalities", "session_id", "qc_voxel_mm")
    values = dict(zip(columns, map(cohort.acquisition, names), strict=True))
    # Without a name for each row, nothing is known of all of them.
    if values["modalities"] is not None and values["modalities"].isna().any():
        values["modalities"] = None
    return {n: None if v is None else v[rows] for n, v in values.items()}


def _complete_rows(cohort: Cohort) -> NDArray[np.bool_]:
    used = [str(cohort.label), *_corrected_for(cohort)]
    return np.asarray(cohort.known[used].notna().all(axis=1))


def _corrected_for(cohort: Cohort) -> list[str]:
    return [*cohort.confounds, *([cohort.site] if cohort.site else [])]


def _describe_left_out(cohort: Cohort, rows: NDArray[np.bool_]) -> list[str]:
    has_label = cohort.known[cohort.label].notna()
    n_left_out = int((has_label & ~rows).sum())
    if n_left_out == 0:
        return []
    return [
        f"{n_left_out} of {has_label.sum()} rows with a label are left out: they lack "
        f"a value of {', '.join(_corrected_for(cohort))}."
    ]


def _scores(evaluation: ProbeEvaluation, cohort: Cohort) -> str:
    columns, metric = ", ".join(_corrected_for(cohort)), evaluation.metric
    score = f"{format_number(evaluation.score.value)} {evaluation.interval(metric)}"
    lines = [("features", score.strip(), format_number(evaluation.p_value, 3))]
    lines += _baseline_lines(evaluation)
    if evaluation.confound_auc is not None:
        lines.append(
            (f"{columns} alone", _over_folds(evaluation, evaluation.confound_auc), "")
        )
    if evaluation.corrected_auc is not None:
        p_value = evaluation.corrected_p_value
        p = "" if p_value is None else format_number(p_value, 3)
        name = f"features, corrected for {columns}"
        lines.append((name, _over_folds(evaluation, evaluation.corrected_auc), p))
    common = evaluation.common
    if common is not None:
        name = f"features, {common.n_subjects} subjects with {common.modalities}"
        score = _over_folds(evaluation, common.auc)
        lines.append((name, score, format_number(common.p_value, 3)))
    for site in evaluation.leave_one_site_out:
        name = f"trained at other sites, tested at {site.site} ({site.n_rows} rows)"
        auc = "one class only" if np.isnan(site.auc) else f"{site.auc:.2f}"
        lines.append((name, auc, ""))
    return score_table(("input of the probe", metric, "p"), lines)


def _over_folds(evaluation: ProbeEvaluation, score: Score) -> str:
    # R2 of the few rows of a fold has no useful spread.
    return str(score) if evaluation.classes else format_number(score.value)


def _baseline_lines(evaluation: ProbeEvaluation) -> list[tuple[str, str, str]]:
    if evaluation.baselines is None:
        return []
    return [
        (
            f"baseline: {row['baseline']}",
            f"{format_number(row['value'])} [{format_number(row['low'])}, "
            f"{format_number(row['high'])}]",
            "",
        )
        for row in evaluation.baselines.to_dict("records")
    ]


def _explain(evaluation: ProbeEvaluation, cohort: Cohort) -> str:
    label = escape(str(cohort.label))
    sizes = f"{evaluation.n_rows} rows of {evaluation.n_subjects} subjects"
    if not evaluation.classes:
        text = (
            f"<p>{label}, {sizes}. Fraction of its variance that is explained in "
            "held-out rows; 0 is chance."
        )
    elif evaluation.pos_label is None:
        names = ", ".join(map(escape, evaluation.classes))
        text = (
            f"<p>{label}: {names}, {sizes}. Area under the ROC curve in held-out rows, "
            "of each class against the others, mean over classes; 0.5 is chance."
        )
    else:
        first, second = map(escape, evaluation.classes)
        text = (
            f"<p>{label}: <b>{second}</b> against <b>{first}</b>, {sizes}. Area under "
            f"the ROC curve in held-out rows; 0.5 is chance. Scores are of {second}, "
            "the positive class."
        )
    text += (
        " Ridge regression in nested, grouped, stratified cross-validation. Brackets: "
        f"{evaluation.confidence:.0%} intervals over subjects; "
    )
    if evaluation.classes:
        text += "±: standard errors over folds [Nadeau and Bengio, 2003]; "
    text += "p from permutations of the labels of whole subjects."
    columns = _corrected_for(cohort)
    if columns:
        text += (
            f" Corrected: {escape(', '.join(columns))} regressed out in each fold, "
            "and only rows of the same site compared."
        )
    return f"\n{text}</p>"


def _decisions(evaluation: ProbeEvaluation) -> str:
    """Show further scores, and which class was decided for."""
    lines = []
    if evaluation.scores is not None:
        for row in evaluation.scores.iloc[1:].to_dict("records"):
            name = str(row["metric"])
            score = f"{format_number(row['value'])} {evaluation.interval(name)}"
            lines.append((name, score.strip()))
    point = evaluation.operating_point
    if point is not None:
        for name, rate, n in (
            ("sensitivity", point.sensitivity, point.n_positive),
            ("specificity", point.specificity, point.n_negative),
        ):
            text = f"{name} at probability {point.threshold:g} ({n} rows)"
            lines.append((text, str(rate)))
    bias = evaluation.bias
    if bias is not None:
        lines.append(("slope of the error on the number", str(bias.slope)))
        lines.append(("slope after correction in each fold", str(bias.corrected_slope)))
    parts = [score_table(("measure", "value"), lines)] if lines else []
    if evaluation.confusion is not None:
        parts.append("<h3>Confusion</h3>")
        parts.append(confusion_html(evaluation.confusion, evaluation.classes))
        parts.append(
            "<p>Rows of a class by the class that the probe decided for, as if all "
            "were equally frequent; mean over repeats.</p>"
        )
    return "\n".join(parts)


def _curves(evaluation: ProbeEvaluation, names: list[str]) -> str:
    figures = [*_identity(evaluation, names), *_class_curves(evaluation)]
    if len(evaluation.learning_curve) > 1:
        svg = learning_curve_svg(evaluation.learning_curve, evaluation.metric)
        caption = (
            f"Learning curve: {evaluation.metric} in all other subjects, mean over 20 "
            "draws of the labelled ones; bars are standard errors over draws."
        )
        figures.append((svg, caption))
    inside = "\n".join(
        f"<figure>{svg}<figcaption>{caption}</figcaption></figure>"
        for svg, caption in figures
    )
    return f'<div class="figures">{inside}</div>'


def _identity(evaluation: ProbeEvaluation, names: list[str]) -> list[tuple[str, str]]:
    if evaluation.predictions is None or evaluation.labels is None:
        return []
    svg = identity_svg(evaluation.labels, evaluation.predictions, names)
    caption = "Predicted over true number, held out; the line is where both are equal."
    return [(svg, caption)]


def _class_curves(evaluation: ProbeEvaluation) -> list[tuple[str, str]]:
    """Return the ROC and calibration of the positive class, or of each."""
    if not evaluation.roc:
        return []
    labels = [curve.label for curve in evaluation.roc]
    point, at = evaluation.operating_point, None
    if point is None:
        legend = legend_html(labels)
        roc = f"ROC of each class against the others: {legend}"
        calibration = f"Calibration of the probabilities, in bins: {legend}"
    else:
        at = 1.0 - point.specificity.value, point.sensitivity.value
        roc = (
            f"ROC of {escape(labels[0])}, folds pooled. The triangle is the decision "
            f"at probability {point.threshold:g}."
        )
        first = evaluation.calibrations[0]
        calibration = (
            f"Calibration of the probability of {escape(labels[0])}, in bins of equal "
            f"counts. Brier score {first.brier:.3f}; always predicting the class "
            f"frequency scores {first.brier_of_share:.3f}."
        )
    return [
        (roc_svg(evaluation.roc, at), roc),
        (calibrations_svg(evaluation.calibrations, labels), calibration),
    ]
