import numpy as np
import pandas as pd

from brainfeat.reporting.cohort import Cohort
from brainfeat.reporting.cohort_report import _acquisition_section


def _section(**columns):
    known = pd.DataFrame(columns)
    names = [f"sub-{row // 2}" for row in range(len(known))]
    cohort = Cohort.build(np.zeros((len(known), 2)), names, names, known)
    return "\n".join(_acquisition_section(cohort))


def _cells(line):
    first, *others = line
    return f"<tr><td>{first}</td>" + "".join(
        f'<td class="number">{cell}</td>' for cell in others
    )


def test_subjects_and_classes_are_counted_by_modalities_and_thickness():
    text = _section(
        diagnosis=["AD", "AD", "CN", "CN", "CN"],
        modalities=["T1w", "T1w", "T1w+FLAIR", "T1w+FLAIR", "T1w"],
        qc_voxel_mm=["1.0x1.0x1.2", "1.2x1.0x1.0", "1.0x1.0x5.0", None, "5.0x1.0x1.0"],
    )
    # Value, subjects, rows, AD, CN.
    assert _cells(("T1w", 2, 3, 2, 1)) in text
    assert _cells(("T1w+FLAIR", 1, 2, 0, 2)) in text
    assert _cells(("1.2 mm", 1, 2, 2, 0)) in text
    assert _cells(("5.0 mm", 2, 2, 0, 2)) in text
    assert _cells(("unknown", 1, 1, 0, 1)) in text
    assert "Slice thicknesses are mixed: 1.2 mm (2 rows), 5.0 mm (2 rows)" in text
    assert "Rows differ in their modalities" in text


def test_rows_that_are_alike_have_no_note_and_old_tables_no_section():
    text = _section(modalities=["T1w"] * 3, qc_voxel_mm=["1.0x1.0x1.0"] * 3)
    assert _cells(("T1w", 2, 3)) in text
    assert 'class="note"' not in text
    assert _section(age=[1.0, 2.0]) == ""
