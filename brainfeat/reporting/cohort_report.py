"""The report about a cohort: scores, regions, map, outliers, inputs, provenance."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from brainfeat.evaluation import (
    ProbeEvaluation,
    Reliability,
    cohort_distances,
    evaluate_reliability,
)
from brainfeat.evaluation.acquisition import describe_thicknesses, thickness_names
from brainfeat.exceptions import InputError
from brainfeat.reporting.cohort import Cohort
from brainfeat.reporting.embedding_map import map_section
from brainfeat.reporting.page import (
    fact_table,
    frame,
    notes,
    score_table,
    scroll_box,
)
from brainfeat.reporting.previews import (
    Preview,
    outline_symbol,
    preview_html,
    rank_previews,
)
from brainfeat.reporting.probe_section import probe_section
from brainfeat.reporting.quality_section import quality_section

__all__ = ["Inputs", "cohort_report"]

_OPEN_PREVIEWS = 24  # the others are folded away
_MOST_OUTLIERS = 10
_MOST_FAILED = 50
_FEWEST_TO_COMPARE = 10
_MOST_CLASSES = 6  # of labels that are not numbers such as age


@dataclass(frozen=True, eq=False, kw_only=True)
class Inputs:
    """Previews of images, names and errors of failed ones, and region importance."""

    previews: Sequence[Preview] = ()
    failures: Sequence[tuple[str, str]] = ()
    importance: pd.DataFrame | None = None  # of `Attribution`
    remarks: Sequence[str] = ()  # what was left out
    failed: Sequence[tuple[str, str, str]] = ()  # subject, file and reason, in the run


def cohort_report(
    title: str,
    facts: Mapping[str, str],
    cohort: Cohort,
    inputs: Inputs,
    provenance: Mapping[str, Any],
) -> tuple[str, ProbeEvaluation | None]:
    """Write the body of the page; also return its probe of the label, if any."""
    evaluation, probe_html = probe_section(cohort)
    settings = escape(json.dumps(provenance, indent=1, default=str))
    sections = [
        f"<h1>{escape(title)}</h1>",
        fact_table(facts),
        "<h2>Linear probe</h2>",
        probe_html,
        *_importance_section(inputs),
        *_acquisition_section(cohort),
        *quality_section(cohort, inputs.previews),
        *_failed_section(inputs),
        "<h2>Embedding map</h2>",
        map_section(cohort),
        "<h2>Outliers</h2>",
        _outliers(cohort),
        "<h2>Reliability</h2>",
        _reliability(cohort),
        "<h2>Preprocessed inputs</h2>",
        _inputs(inputs),
        "<h2>Provenance</h2>",
        f"<details><summary>All settings</summary><pre>{settings}</pre></details>",
    ]
    return frame(sections), evaluation


def _importance_section(inputs: Inputs) -> list[str]:
    importance = inputs.importance
    if importance is None:
        return []
    largest = max(float(importance["importance"].max()), 1e-12)
    lines = "\n".join(
        f'<tr><td class="path">{_breakable(str(name))}<span class="bar" style="width:'
        f'{100 * max(row["importance"], 0.0) / largest:.0f}%"></span></td>'
        f'<td class="number">{_number(row["importance"], 1)}</td>'
        f'<td class="number">{_number(row["effect"], 3)}</td>'
        f'<td class="number">{100 * row["share"]:.1f} %</td></tr>'
        for name, row in importance.iterrows()
    )
    return [
        "<h2>Important regions</h2>",
        notes(inputs.remarks),
        scroll_box(
            '<table><thead><tr><th>region</th><th class="number">importance</th><th '
            'class="number">effect</th><th class="number">fraction of brain</th></tr>'
            f"</thead><tbody>{lines}</tbody></table>"
        ),
        "<p>The effect of a region is the drop in the difference between the classes' "
        "decision values when its tokens are replaced by those of the average subject, "
        "in held-out subjects. Importance is the effect divided by the region's "
        "fraction of the brain's tokens. Tokens share context with their neighbours, "
        "so a region may also show what lies beside it.</p>",
    ]


def _number(value: float, n_decimals: int) -> str:
    return f"{value:z.{n_decimals}f}"


def _breakable(name: str) -> str:
    """Allow line breaks after the underscores of a name."""
    return escape(name).replace("_", "_<wbr>")


def _acquisition_section(cohort: Cohort) -> list[str]:
    """Count subjects by modalities and slice thickness; empty if nothing is known."""
    parts = []
    modalities = cohort.acquisition("modalities")
    if modalities is not None:
        texts = modalities.fillna("unknown").map(str).tolist()
        if len(set(texts)) > 1:
            note = (
                "Rows differ in their modalities: embeddings show which are missing. "
                "Embed rows of the same by --require or --only."
            )
            parts.append(notes([note]))
        parts.append(_count_table("modalities", texts, cohort))
        parts.append(_availability(texts))
    voxel_mm = cohort.acquisition("qc_voxel_mm")
    if voxel_mm is not None:
        mixed = describe_thicknesses(voxel_mm)
        parts.append(notes([] if mixed is None else [mixed[:1].upper() + mixed[1:]]))
        parts.append(_count_table("slice thickness", thickness_names(voxel_mm), cohort))
    return ["<h2>Modalities and voxel sizes</h2>", *parts] if parts else []


def _availability(texts: Sequence[str]) -> str:
    """Count the rows that have each modality."""
    names = sorted({name for text in texts for name in text.split("+")} - {"unknown"})
    counts = {n: sum(n in text.split("+") for text in texts) for n in names}
    lines = [
        (name, str(n), f"{100 * n / len(texts):.0f} %") for name, n in counts.items()
    ]
    return score_table(("modality", "rows", "of all"), lines)


def _count_table(title: str, values: Sequence[str], cohort: Cohort) -> str:
    """Count rows, subjects, and rows of each class, by value."""
    rows = pd.DataFrame({"value": values, "subject": list(cohort.participants)})
    classes: list[str] = []
    if cohort.label is not None:
        rows["label"] = cohort.texts(cohort.label).tolist()
        classes = sorted(set(rows["label"]))
        classes = classes if len(classes) <= _MOST_CLASSES else []
    lines = [
        (
            str(value),
            str(part["subject"].nunique()),
            str(len(part)),
            *(str(int((part["label"] == name).sum())) for name in classes),
        )
        for value, part in rows.groupby("value", sort=True)
    ]
    header = (title, "subjects", "rows", *(f"{cohort.label} {n}" for n in classes))
    return score_table(header, lines)


def _failed_section(inputs: Inputs) -> list[str]:
    """List the subjects that the run could not embed."""
    if not inputs.failed:
        return []
    lines = "".join(
        f"<tr>{''.join(f'<td class=path>{escape(text)}</td>' for text in line)}</tr>"
        for line in inputs.failed[:_MOST_FAILED]
    )
    n_others = len(inputs.failed) - _MOST_FAILED
    more = f"<p>{n_others} more are in the table of failures.</p>"
    return [
        f"<h2>Failed subjects</h2><p>{len(inputs.failed)} could not be embedded:</p>",
        scroll_box(
            "<table><thead><tr><th>subject</th><th>file</th><th>reason</th></tr>"
            f"</thead><tbody>{lines}</tbody></table>"
        ),
        more if n_others > 0 else "",
    ]


def _outliers(cohort: Cohort) -> str:
    n_rows = len(cohort.names)
    if n_rows < _FEWEST_TO_COMPARE:
        return f"<p>Needs at least {_FEWEST_TO_COMPARE} rows, got {n_rows}.</p>"
    try:
        distances = cohort_distances(cohort.embeddings, groups=cohort.participants)
    except InputError as error:
        return f"<p>Not evaluated: {escape(str(error))}</p>"
    order = np.argsort(-distances.score, kind="stable")[:_MOST_OUTLIERS]
    lines = [
        (
            cohort.names[row],
            _number(distances.distance[row], 2),
            f"{distances.score[row]:+z.1f}{' *' if distances.is_outlier[row] else ''}",
        )
        for row in order
    ]
    return (
        score_table(("row", "distance", "robust z-score"), lines)
        + f"<p>{int(distances.is_outlier.sum())} of {len(cohort.names)} rows are "
        "outliers (*: more than 3.5 robust standard deviations from the cohort). "
        "Mahalanobis distance of the embedding to the other subjects, with a shrunken "
        "covariance; a row is not compared with repeats of its subject. Check their "
        "images below: a failed alignment and unusual anatomy both lead to a large "
        "distance.</p>"
    )


def _reliability(cohort: Cohort) -> str:
    site = None
    if cohort.site is not None and cohort.known[cohort.site].notna().all():
        site = cohort.texts(cohort.site)
    n_repeated = int((pd.Series(cohort.participants).value_counts() > 1).sum())
    if n_repeated < 2:
        n = n_repeated or "none"
        return f"<p>Needs at least two subjects with repeat scans, got {n}.</p>"
    try:
        result = evaluate_reliability(cohort.embeddings, cohort.participants, site=site)
    except InputError as error:
        return f"<p>Not evaluated: {escape(str(error))}</p>"
    return _reliability_table(result)


def _reliability_table(reliability: Reliability) -> str:
    icc = reliability.feature_icc[np.isfinite(reliability.feature_icc)]
    lines = [("ICC(2,1) of the features", "undefined", "")]
    if len(icc):
        low, median, high = np.quantile(icc, (0.25, 0.5, 0.75))
        lines = [
            ("ICC(2,1) of the features, median", f"{median:.2f}", ""),
            ("interquartile range", f"{low:.2f} to {high:.2f}", ""),
        ]
    name = "scans whose nearest other scan is of the same subject"
    retrieval = f"{reliability.retrieval:.0%}", f"{reliability.retrieval_chance:.0%}"
    lines.append((name, *retrieval))
    if reliability.site_decoding is not None and reliability.site_chance is not None:
        name = "site decoded from the features, balanced accuracy"
        decoding = str(reliability.site_decoding), f"{reliability.site_chance:.2f}"
        lines.append((name, *decoding))
    counts = f"{reliability.n_subjects} subjects with {reliability.n_scans} scans each"
    return f"{score_table(('measure', 'value', 'chance'), lines)}<p>{counts}.</p>"


def _inputs(inputs: Inputs) -> str:
    parts = [notes(inputs.remarks)]
    if inputs.failures:
        lines = [f"{name}: {reason}" for name, reason in inputs.failures]
        items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
        parts.append(f"<p>Could not be shown:</p>\n<ul>{items}</ul>")
    if not inputs.previews:
        return "\n".join([*parts, "<p>No image is shown.</p>"])
    ranked = rank_previews(inputs.previews)
    n_suspect = sum(is_suspect for _, is_suspect in ranked)
    figures = [preview_html(preview, is_suspect=suspect) for preview, suspect in ranked]
    parts += [
        f"<p>Suspect inputs are framed ({n_suspect} of {len(ranked)}), and the most "
        "suspect come first. Each modality is a row. Lines show the brain mask "
        "(green), and the template's brain (orange) and white matter (blue): a brain "
        "of another size is normal, a rotated or shifted one is misaligned. Left is "
        "left. Similarity is the correlation with a model of a head, overlap the Dice "
        "coefficient of the brain mask and the template's in these planes.</p>",
        outline_symbol(),
        f'<div class="brains">{"".join(figures[:_OPEN_PREVIEWS])}</div>',
    ]
    if len(figures) > _OPEN_PREVIEWS:
        n_folded = len(figures) - _OPEN_PREVIEWS
        parts.append(
            f"<details><summary>Show {n_folded} more</summary>"
            f'<div class="brains">{"".join(figures[_OPEN_PREVIEWS:])}</div></details>'
        )
    return "\n".join(parts)
