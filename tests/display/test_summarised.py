"""What a terminal and a notebook show of each result."""

from xml.etree import ElementTree as ET

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from brainfeat import Checkpoint, Geometry, Volume
from brainfeat.display.summarised import Summarised, format_facts
from brainfeat.evaluation import compare_embeddings, evaluate_reliability
from brainfeat.reporting import Attribution, EmbedderReport


class Result(Summarised):
    def summary(self):
        return format_facts(
            [
                ("a name of 16 ch.", "word " * 30),
                ("a & b", "http://" + "x" * 99),
                ("note", "<few> 1 +- 2"),
            ]
        )


def volume():
    data = np.arange(60.0, dtype=np.float32).reshape(3, 4, 5)
    return Volume(data, Geometry((3, 4, 5), np.diag([-2.0, 1.0, 1.5, 1.0])))


def reliability():
    rng = np.random.default_rng(0)
    person = rng.normal(size=(6, 4)).repeat(2, axis=0)
    X = person + 0.1 * rng.normal(size=person.shape)
    subjects = np.arange(6).repeat(2)
    return evaluate_reliability(X, subjects, site=[0, 1] * 6, predictions=X[:, 0])


def attribution():
    names = ["front <left>", "back"]
    columns = {"share": [0.2, 0.8], "effect": [0.5, -0.1], "importance": [2.5, -0.125]}
    maps = nib.Nifti1Image(np.eye(4, 5, dtype=np.float32)[..., None] - 0.5, np.eye(4))
    return Attribution(
        effects=pd.DataFrame(np.zeros((7, 2)), columns=names),
        importance=pd.DataFrame(columns, index=names),
        maps=[maps],
        template_maps=(maps,),
        group_img=maps,
    )


def comparison():
    rng = np.random.default_rng(0)
    y = np.arange(24) % 2
    tables = {"a<b": rng.normal(size=(24, 3)), "c": rng.normal(size=(24, 3))}
    return compare_embeddings(tables, y, n_repeats=1, n_bootstraps=50)


RESULTS = {
    "volume": (volume, "3 x 4 x 5 voxels of 2.0 x 1.0 x 1.5 mm, LAS, float32"),
    "checkpoint": (lambda: Checkpoint.load("brainfound-tiny"), "T1w, T2w, FLAIR to"),
    "reliability": (reliability, "6 subjects with 2 scans each, median ICC 0.9"),
    "attribution": (attribution, "7 subjects; most important are front <left>, back"),
    "comparison": (comparison, "24 rows of 24 subjects"),
}


@pytest.mark.parametrize("name", RESULTS)
def test_result_is_shown_as_a_line_as_text_and_in_a_notebook(name):
    make, headline = RESULTS[name]
    result = make()
    assert headline in repr(result)
    assert repr(result).startswith(f"<{type(result).__name__}: ")
    assert len(repr(result)) < 140
    assert "\n" not in repr(result)
    text = result.summary()
    assert 2 <= len(text.splitlines()) < 40
    shown = ET.fromstring(
        result._repr_html_().replace("<img", "<i").replace('left">', 'left"></i>')
    )
    words = "".join(shown.itertext())
    assert headline in words


def test_facts_are_the_same_in_text_and_html():
    shown = ET.fromstring(Result()._repr_html_())
    rows = [["".join(cell.itertext()) for cell in row] for row in shown.iter("tr")]
    assert rows == [
        ["a name of 16 ch.", ("word " * 30).strip()],
        ["a & b", "http://" + "x" * 99],
    ]
    assert [p.text for p in shown.iter("p")][1:] == ["<few> 1 ± 2"]


def test_report_is_shown_whole_and_described_in_a_line():
    report = EmbedderReport("<p>costs $5</p>", {"subjects": "3, T1w", "version": "0"})
    assert report._repr_html_() == str(report) == "<p>costs $5</p>"
    assert "costs $5" in report.get_standalone()
    assert repr(report) == "<EmbedderReport: 3, T1w; 0.0 MB of HTML>"
    assert report.summary().splitlines()[0].split() == ["subjects:", "3,", "T1w"]
