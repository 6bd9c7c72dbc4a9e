"""What a report says of how well a label is read."""

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

_FEWEST_TO_PROBE = 10


def probe_section(cohort: Cohort) -> list[str]:
    """Evaluate the label of a cohort, and write about it.

    Parameters
    ----------
    cohort : Cohort
        Embeddings and what is known.

    Returns
    -------
    list of str
        HTML; it says why, if there is nothing to evaluate.
    """
    heading = "<h2>Can a linear probe read the label?</h2>"
    if cohort.label is None:
        return [
            heading,
            "<p>No labels: a table with a column such as <code>diagnosis</code>, "
            "given by <code>--labels</code>, would be evaluated here.</p>",
        ]
    labels = cohort.texts(cohort.label)
    rows = _complete_rows(cohort)
    left_out = notes(_tell_left_out(cohort, rows))
    counts = labels[rows].value_counts()
    if len(counts) != 2 or counts.min() < _FEWEST_TO_PROBE // 2:
        shares = ", ".join(f"{name} ({n})" for name, n in counts.items())
        return [
            heading,
            left_out,
            f"<p>The column <code>{escape(cohort.label)}</code> cannot be probed: "
            f"expected two classes of {_FEWEST_TO_PROBE // 2} rows at least, got "
            f"{escape(shares) or 'none'}.</p>",
        ]
    try:
        found = _evaluate(cohort, rows, labels)
    except InputError as error:
        return [heading, left_out, f"<p>Not evaluated: {escape(str(error))}</p>"]
    findings = notes(found.findings)
    return [heading, left_out, findings, _scores(found, cohort), *_curves(found)]


def _evaluate(
    cohort: Cohort, rows: NDArray[np.bool_], labels: "pd.Series[Any]"
) -> ProbeEvaluation:
    known = cohort.known[rows]
    with warnings.catch_warnings():
        # The page tells them.
        warnings.simplefilter("ignore", ConfoundingWarning)
        warnings.simplefilter("ignore", LeakageWarning)
        return evaluate_probe(
            cohort.embeddings[rows],
            labels[rows],
            groups=np.asarray(cohort.participants)[rows],
            site=None if cohort.site is None else cohort.texts(cohort.site)[rows],
            confounds=known[cohort.confounds] if cohort.confounds else None,
        )


def _complete_rows(cohort: Cohort) -> NDArray[np.bool_]:
    used = [str(cohort.label), *_accounted(cohort)]
    return np.asarray(cohort.known[used].notna().all(axis=1))


def _accounted(cohort: Cohort) -> list[str]:
    return [*cohort.confounds, *([cohort.site] if cohort.site else [])]


def _tell_left_out(cohort: Cohort, rows: NDArray[np.bool_]) -> list[str]:
    has_label = cohort.known[cohort.label].notna()
    n_left_out = int((has_label & ~rows).sum())
    if n_left_out == 0:
        return []
    return [
        f"{n_left_out} of {has_label.sum()} rows with a label are left out here, "
        f"without a value of {', '.join(_accounted(cohort))}."
    ]


def _scores(found: ProbeEvaluation, cohort: Cohort) -> str:
    accounted = _accounted(cohort)
    told = escape(", ".join(accounted))
    lines = [("features as they are", str(found.auc), format_number(found.p_value, 3))]
    if found.confound_auc is not None:
        lines.append((f"{', '.join(accounted)} alone", str(found.confound_auc), ""))
    if found.corrected_auc is not None and found.corrected_p_value is not None:
        lines.append(
            (
                f"features, corrected for {', '.join(accounted)}",
                str(found.corrected_auc),
                format_number(found.corrected_p_value, 3),
            )
        )
    lines += [
        (
            f"learnt elsewhere, tested at {site.site} ({site.n_rows} rows)",
            "one class only" if np.isnan(site.auc) else f"{site.auc:.2f}",
            "",
        )
        for site in found.leave_one_site_out
    ]
    first, second = found.classes
    text = (
        f"<p>{escape(str(cohort.label))}: <b>{escape(second)}</b> against "
        f"<b>{escape(first)}</b>, {found.n_rows} rows of {found.n_subjects} "
        "subjects. Area under the ROC curve of rows that were held out; 0.5 is chance. "
        "Nested, grouped and stratified cross-validation of ridge regression; standard "
        "errors by Nadeau and Bengio, p by permuting the labels of whole subjects."
    )
    if accounted:
        text += (
            f" Corrected: {told} regressed out in each fold, and only rows of one "
            "site compared."
        )
    return score_table(("features", "AUC", "p"), lines) + f"\n{text}</p>"


def _curves(found: ProbeEvaluation) -> list[str]:
    parts = []
    if len(found.learning_curve) > 1:
        parts.append(
            f"<figure>{learning_curve_svg(found.learning_curve)}<figcaption>How many "
            "labels does it take? Mean over 20 draws of the labelled subjects, tested "
            "on all others; bars are standard errors over draws.</figcaption></figure>"
        )
    c = found.calibration
    parts.append(
        f"<figure>{calibration_svg(c)}<figcaption>Are the probabilities what they say? "
        f"Bins of equal counts. Brier score {c.brier:.3f}; always telling the share "
        f"would give {c.brier_of_share:.3f}.</figcaption></figure>"
    )
    return ['<div class="figures">', *parts, "</div>"]
