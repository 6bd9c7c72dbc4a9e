import pickle

import numpy as np
import pandas as pd
import pytest
from nilearn.reporting import HTMLReport
from sklearn.base import clone

from brainfeat import BrainFoundEmbedder, Preprocessor
from brainfeat.exceptions import InputError
from brainfeat.reporting import generate_report, report_inputs


@pytest.fixture
def embedder(small_checkpoint, brains, small_atlas, without_registration, monkeypatch):
    assert without_registration is None
    monkeypatch.setattr(report_inputs, "template_regions", lambda: small_atlas)
    return BrainFoundEmbedder(small_checkpoint, device="cpu").fit(brains)


def test_report_is_nilearns_and_can_be_saved(embedder, brains, tmp_path):
    y = ["patient" if number % 2 else "control" for number in range(16)]
    confounds = pd.DataFrame({"age": np.linspace(50, 80, 16), "bmi": range(20, 36)})
    site = ["$body", "north"] * 8  # a name that a template could take for its own
    report = generate_report(embedder, y=y, site=site, confounds=confounds)
    assert isinstance(report, HTMLReport)
    shown = report._repr_html_()
    assert report._repr_mimebundle_() == {"text/html": shown}  # at full width
    assert shown.startswith('<div class="brainfeat">')
    earlier = tmp_path / "earlier.html"
    earlier.write_text("earlier")
    (tmp_path / "report.html").hardlink_to(earlier)
    report.save_as_html(tmp_path / "report.html")
    assert earlier.read_text() == "earlier"  # replaced, not written into
    page = (tmp_path / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert shown in page
    for part in (
        "<b>patient</b>",
        "region_<wbr>9",
        "age, bmi, site alone",
        "$body",
        brains[0],
    ):
        assert part in page


def test_scans_are_read_in_parallel(paired, brains):
    page = generate_report(paired.fit(brains[:4]))._repr_html_()
    assert "Could not be shown" not in page
    assert "No image is shown" not in page


def test_brain_mask_may_be_a_lambda(embedder, brains):
    preprocessor = Preprocessor(
        shape=(40, 56, 36), spacing=4.0, brain_mask=lambda volume: volume.data > 0
    )
    masked = clone(embedder).set_params(preprocessor=preprocessor)
    page = generate_report(masked.fit(brains[:2]))._repr_html_()
    assert "&lt;lambda&gt;" in page


def test_report_needs_subjects(embedder, brains):
    with pytest.raises(InputError, match="generate_report: expected X"):
        generate_report(clone(embedder).fit())
    with pytest.raises(InputError, match="generate_report: expected X"):
        generate_report(pickle.loads(pickle.dumps(embedder)))
    with pytest.raises(InputError, match="site: expected a value for each of 2"):
        generate_report(embedder, brains[:2], site=["a"])


@pytest.mark.parametrize(
    ("confounds", "message"),
    [
        (np.zeros((2, 1)), "confounds: expected a DataFrame, got ndarray"),
        (pd.DataFrame({"age": [50, 60], "label": [0, 1]}), "no column 'label' beside"),
        (pd.DataFrame({"age": [50]}), "confounds: age: expected a value for each of 2"),
    ],
)
def test_unusable_confounds_are_named(embedder, brains, confounds, message):
    with pytest.raises(InputError, match=message):
        generate_report(embedder, brains[:2], y=["a", "b"], confounds=confounds)


def test_labels_in_another_order_are_rejected(embedder, brains):
    scans = pd.DataFrame({"T1w": brains[:2]}, index=["sub-1", "sub-2"])
    y = pd.Series(["b", "a"], index=["sub-2", "sub-1"])
    with pytest.raises(InputError, match="y: expected the index of X, got the same"):
        generate_report(embedder, scans, y)
    ages = pd.DataFrame({"age": [60, 50]}, index=y.index)
    with pytest.raises(InputError, match="confounds: expected the index of X, got"):
        generate_report(embedder, scans, list(y), confounds=ages)
