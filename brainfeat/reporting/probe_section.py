"""The section of a report about a linear probe of the label."""

import warnings
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainfeat.evaluation import ProbeEvaluation, evaluate_probe
from brainfeat.evaluation.scores import format_number
from brainfeat.exceptions import ConfoundingWarning, InputError, LeakageWarning
from brainfeat.reporting.cohort import Cohort
from brainfeat.reporting.page import notes, score_table
from brainfeat.reporting.plots import calibration_svg, learning_curve_svg

__all__ = ["probe_section"]

_FEWEST_OF_CLASS = 5


def probe_section(cohort: Cohort) -> tuple[ProbeEvaluation | None, str]:
    """Evaluate a probe of the label; the HTML says why, if there is none."""
    if cohort.label is None:
        return None, (
            "<p>No labels. Pass a table with a column such as <code>diagnosis</code> "
            "by <code>--labels</code> to evaluate a linear probe.</p>"
        )
    labels = cohort.texts(cohort.label)
    rows = _complete_rows(cohort)
    left_out = notes(_describe_left_out(cohort, rows))
    counts = labels[rows].value_counts()
    if len(counts) != 2 or counts.min() < _FEWEST_OF_CLASS:
        classes = ", ".join(f"{name} ({n})" for name, n in counts.items())
        return None, (
            f"{left_out}<p>Column <code>{escape(cohort.label)}</code> was not probed: "
            f"expected two classes with at least {_FEWEST_OF_CLASS} rows each, got "
            f"{escape(classes) or 'none'}.</p>"
        )
    try:
        evaluation = _evaluate(cohort, rows, labels)
    except InputError as error:
        return None, f"{left_out}<p>Not evaluated: {escape(str(error))}</p>"
    parts = [
        left_out,
        notes(text[:1].upper() + text[1:] for text in evaluation.findings),
        _scores(evaluation, cohort),
        _curves(evaluation),
    ]
    return evaluation, "\n".join(parts)


def _evaluate(
    cohort: Cohort, rows: NDArray[np.bool_], labels: "pd.Series[Any]"
) -> ProbeEvaluation:
    known = cohort.known[rows]
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
            pos_label=cohort.pos_label,
            **_acquisition(cohort, rows),
        )


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
    columns = ", ".join(_corrected_for(cohort))
    lines = [("features", str(evaluation.auc), format_number(evaluation.p_value, 3))]
    if evaluation.confound_auc is not None:
        lines.append((f"{columns} alone", str(evaluation.confound_auc), ""))
    if evaluation.corrected_auc is not None:
        p_value = evaluation.corrected_p_value
        p = "" if p_value is None else format_number(p_value, 3)
        name = f"features, corrected for {columns}"
        lines.append((name, str(evaluation.corrected_auc), p))
    common = evaluation.common
    if common is not None:
        name = f"features, {common.n_subjects} subjects with {common.modalities}"
        lines.append((name, str(common.auc), format_number(common.p_value, 3)))
    for site in evaluation.leave_one_site_out:
        name = f"trained at other sites, tested at {site.site} ({site.n_rows} rows)"
        auc = "one class only" if np.isnan(site.auc) else f"{site.auc:.2f}"
        lines.append((name, auc, ""))
    table = score_table(("input of the probe", "AUC", "p"), lines)
    return table + _explain(evaluation, cohort)


def _explain(evaluation: ProbeEvaluation, cohort: Cohort) -> str:
    first, second = evaluation.classes
    text = (
        f"<p>{escape(str(cohort.label))}: <b>{escape(second)}</b> against "
        f"<b>{escape(first)}</b>, {evaluation.n_rows} rows of "
        f"{evaluation.n_subjects} subjects. Area under the ROC curve in held-out rows; "
        f"0.5 is chance. Scores are of {escape(second)}, the positive class. Ridge "
        "regression in nested, grouped, stratified cross-validation; corrected "
        "standard errors [Nadeau and Bengio, 2003]; p from permutations of the labels "
        "of whole subjects."
    )
    columns = _corrected_for(cohort)
    if columns:
        text += (
            f" Corrected: {escape(', '.join(columns))} regressed out in each fold, "
            "and only rows of the same site compared."
        )
    return f"\n{text}</p>"


def _curves(evaluation: ProbeEvaluation) -> str:
    figures = []
    if len(evaluation.learning_curve) > 1:
        figures.append(
            f"<figure>{learning_curve_svg(evaluation.learning_curve)}<figcaption>"
            "Learning curve: AUC in all other subjects, mean over 20 draws of the "
            "labelled ones; bars are standard errors over draws.</figcaption></figure>"
        )
    calibration = evaluation.calibration
    if calibration is not None:
        figures.append(
            f"<figure>{calibration_svg(calibration)}<figcaption>Calibration of the "
            f"probability of {escape(str(evaluation.pos_label))}, in bins of equal "
            f"counts. Brier score {calibration.brier:.3f}; always predicting the "
            f"class frequency scores {calibration.brier_of_share:.3f}."
            "</figcaption></figure>"
        )
    return '<div class="figures">' + "\n".join(figures) + "</div>"
