import re

import numpy as np
import pandas as pd
import pytest

from brainfeat.preprocessing.preview import SubjectPicture
from brainfeat.preprocessing.quality import Quality
from brainfeat.reporting.cohort import Cohort
from brainfeat.reporting.previews import Preview
from brainfeat.reporting.quality_section import quality_section
from brainfeat.reporting.volume_histogram import volume_histogram_svg


def cohort(**columns):
    n_rows = len(next(iter(columns.values()), range(3)))
    known = pd.DataFrame(columns, index=range(n_rows))
    names = [f"sub-<{i}>" for i in range(n_rows)]
    return Cohort.build(np.zeros((n_rows, 4)), names, names, known)


def test_rows_in_doubt_are_listed_in_words_the_worst_first():
    sections = quality_section(
        cohort(
            qc_similarity=[0.9, 0.7, np.nan, 0.4, np.nan],
            qc_brain_ml=[1400.0, 1500.4, 300.0, 1200.0, np.nan],
            qc_doubt=["", "a < b", "only centred", "tilted", None],
        ),
        (),
    )
    text = "".join(sections)
    assert "3 of 4 rows are in doubt" in text  # of the fifth, nothing is known
    rows = re.findall(r"<tr><td.*?</tr>", text)
    cells = [re.sub("<[^>]*>", "|", row).strip("|").split("||") for row in rows]
    assert cells[3:] == [
        ["qc_similarity", "0.40", "0.43", "0.70", "0.88", "0.90"],
        ["qc_brain_ml", "300", "435", "1300", "1485", "1500"],
    ]
    assert cells[:3] == [
        ["sub-&lt;2&gt;", "only centred", "none", "300 ml"],
        ["sub-&lt;3&gt;", "tilted", "0.40", "1200 ml"],
        ["sub-&lt;1&gt;", "a &lt; b", "0.70", "1500 ml"],
    ]
    assert "median 1300 ml, 300 to 1500 ml" in text


def test_without_columns_the_previews_tell():
    picture = SubjectPicture(b"png", 264, 104, ("T1w",), 0.9)
    shown = [Preview("a", picture, Quality(0.9, 1350.0, ""))]
    text = "".join(quality_section(cohort(), shown))
    assert "0 of 1 rows are in doubt." in text
    assert "median 1350 ml" in text


def test_without_any_quality_there_is_no_section():
    unknown = cohort(
        qc_similarity=[None] * 3, qc_brain_ml=[None] * 3, qc_doubt=[None] * 3
    )
    assert quality_section(unknown, ()) == []


@pytest.mark.parametrize("spread", [0.0, 30.0, 2000.0])
def test_every_row_is_in_the_histogram(rng, spread):
    volumes = np.abs(1400 + spread * rng.normal(size=57))
    in_doubt = rng.random(57) < 0.3
    svg = volume_histogram_svg(volumes, in_doubt)
    counts = np.array(re.findall(r"ml: (\d+) rows, (\d+) in doubt", svg), int)
    assert counts.sum(axis=0).tolist() == [57, in_doubt.sum()]
    bars = [float(h) for h in re.findall(r'<rect[^>]*height="([\d.]+)"', svg)]
    heights = np.concatenate([counts[:, 1], counts[:, 0] - counts[:, 1]])
    np.testing.assert_allclose(sum(bars) / max(bars), 57 / heights.max(), rtol=0.01)
