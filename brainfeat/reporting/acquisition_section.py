"""The section of a report about modalities and slice thicknesses."""

from collections.abc import Sequence

import pandas as pd

from brainfeat.evaluation.acquisition import describe_thicknesses, thickness_names
from brainfeat.reporting.cohort import Cohort
from brainfeat.reporting.page import notes, score_table

__all__ = ["acquisition_section"]

_MOST_CLASSES = 6  # of labels that are not numbers such as age


def acquisition_section(cohort: Cohort) -> list[str]:
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
    voxel_mm = cohort.acquisition("qc_voxel_mm")
    if voxel_mm is not None:
        mixed = describe_thicknesses(voxel_mm)
        parts.append(notes([] if mixed is None else [mixed[:1].upper() + mixed[1:]]))
        parts.append(_count_table("slice thickness", thickness_names(voxel_mm), cohort))
    return ["<h2>Modalities and voxel sizes</h2>", *parts] if parts else []


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
