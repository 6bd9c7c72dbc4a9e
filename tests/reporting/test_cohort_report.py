import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from brainfeat.preprocessing.preview import SubjectPicture
from brainfeat.preprocessing.quality import Quality
from brainfeat.reporting.cohort import Cohort
from brainfeat.reporting.cohort_report import Inputs, cohort_report
from brainfeat.reporting.previews import Preview

PICTURE = SubjectPicture(b"png", 264, 104, ("T1w",), 0.9)


def make(rng, n_rows=24, **columns):
    known = pd.DataFrame({name: values(n_rows) for name, values in columns.items()})
    known = known if columns else pd.DataFrame(index=range(n_rows))
    names = [f"sub-{i:02d}" for i in range(n_rows)]
    participants = [f"person-{i // 2}" for i in range(n_rows)]
    return Cohort.build(rng.normal(size=(n_rows, 6)), names, participants, known)


def body(cohort, inputs=None):
    facts = {"table": "a.csv"}
    return cohort_report(
        "A <title>", facts, cohort, inputs or Inputs(), {"seed": "<7>"}
    )[0]


def test_every_section_is_there(rng):
    importance = pd.DataFrame(
        {"share": [0.01, 0.5], "effect": [0.2, -0.1], "importance": [20.0, -0.2]},
        index=["medial_temporal_l", "elsewhere"],
    )
    previews = [
        Preview(f"sub-{i:02d}", PICTURE, Quality(0.3 + 0.001 * i, 1400.0, "why"))
        for i in range(30)
    ]
    inputs = Inputs(
        previews=previews,
        failures=[("sub-99", "a<b: cut short.")],
        importance=importance,
        remarks=["Some are not shown."],
        failed=[("sub-77", "/data/a_T1w.nii.gz", "is <empty>")],
    )
    cohort = make(
        rng,
        diagnosis=lambda n: np.arange(n) // 2 % 2,
        site=lambda n: np.where(np.arange(n) % 2, "north", "river"),
        age=lambda n: np.linspace(50, 80, n),
    )
    text = body(cohort, inputs)
    for part in (
        "A &lt;title&gt;",
        "medial_<wbr>temporal_<wbr>l",
        "a&lt;b: cut short.",
        "Some are not shown.",
        "Show 6 more",
        "ICC(2,1) of the features, median",
        "12 subjects with 2 scans each",
        "site decoded from the features",
        "rows are outliers",
        "Suspect inputs are framed (30 of 30)",
        "<figcaption>diagnosis: <span",
        "<figcaption>site: <span",
        "<figcaption>age: <span",
        "&lt;7&gt;",
        "1 could not be embedded",
        "is &lt;empty&gt;",
    ):
        assert part in text
    # Once beside the regions, which rest on the same rows.
    assert text.count("Some are not shown.") == 2
    assert text.count('<use href="#template"') == 30
    assert "<script" not in text


def test_distant_row_is_an_outlier(rng):
    cohort = make(rng, n_rows=40)
    cohort.embeddings[11] += 12  # its repeat, sub-10, stays where it was
    text = body(cohort)
    table = text[text.index("<h2>Outliers") :]
    assert table.index("sub-11") < table.index("</tr>\n<tr>") + 60
    assert " *</td>" in table


def test_map_of_a_large_cohort_shows_a_sample(rng):
    cohort = make(rng, n_rows=6000, site=lambda n: np.arange(n) % 3, age=np.arange)
    text = body(cohort)
    assert "A random sample of 5000 of 6000 rows." in text
    by_group, by_age = text.split("<figure>")[1:3]
    for figure, n_classes in ((by_group, 3), (by_age, 4)):
        marks, legend = figure.split("<figcaption>")
        assert marks.count("<title>sub-") == 5000
        assert legend.count("<title>") == n_classes
    colors = {"#0072b2": 0, "#d55e00": 1, "#009e73": 2}
    marks = re.findall(r'fill="(#\w+)" fill-opacity="0.75"><title>sub-(\d+)', by_group)
    assert all(colors[color] == int(number) % 3 for color, number in marks)


@pytest.mark.parametrize("n_rows", [2, 5])
def test_few_rows_still_make_a_page(rng, n_rows):
    text = body(make(rng, n_rows=n_rows))
    assert f"Needs at least 10 rows, got {n_rows}." in text
    assert "No image is shown." in text


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (np.arange(24.0)[:, None], "Too few rows or features for a map."),
        (np.ones((24, 3)), "No map: all rows are equal."),
    ],
    ids=["one feature", "equal rows"],
)
def test_rows_without_a_map_still_make_a_page(rng, embeddings, message):
    cohort = make(rng, diagnosis=lambda n: np.arange(n) // 2 % 2)
    text = body(replace(cohort, embeddings=embeddings))
    assert message in text
    assert "nan %" not in text


def test_map_of_many_sites_joins_rare_ones(rng):
    cohort = make(rng, n_rows=60, site=lambda n: [f"s{i % 30}" for i in range(n)])
    assert "others" in body(cohort)


def test_two_subjects_at_two_sites_make_a_page(rng):
    text = body(make(rng, n_rows=4, site=lambda n: np.arange(n) % 2))
    assert "2 subjects with 2 scans each" in text
    row = text[text.index("site decoded from the features") :].partition("</tr>")[0]
    assert "undefined" in row


def test_reliability_ignores_a_site_with_one_subject(rng):
    text = body(make(rng, site=lambda n: ["far", *["north", "river"] * 12][:n]))
    assert "12 subjects with 2 scans each" in text
    assert "Not evaluated" not in text


def test_reliability_needs_repeat_scans(rng):
    text = body(make(rng, n_rows=3))
    assert "Needs at least two subjects with repeat scans, got 1." in text


def test_quartiles_of_small_numbers_are_distinct(rng):
    text = body(make(rng, diagnosis=lambda n: np.linspace(0.1, 0.5, n)))
    for quartile in ("0.1 to 0.2", "0.2 to 0.3", "0.3 to 0.4", "0.4 to 0.5"):
        assert f"</svg>{quartile}</span>" in text
