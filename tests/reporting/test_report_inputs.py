import numpy as np
import pandas as pd
import pytest

from brainfeat.reporting import report_inputs
from brainfeat.reporting.cohort import Cohort
from brainfeat.reporting.importance import attribute_tokens
from brainfeat.reporting.report_inputs import preprocess_inputs
from brainfeat.subjects.subject import Subject

Y = np.arange(16) % 2


@pytest.fixture
def run(small_encoder, brains, small_atlas, without_registration, monkeypatch, rng):
    assert without_registration is None
    monkeypatch.setattr(report_inputs, "template_regions", lambda: small_atlas)

    def preprocess(paths=brains, labels=Y):
        known = pd.DataFrame(index=range(len(paths)))
        if labels is not None:
            known["diagnosis"] = labels
        names = [f"sub-{i}" for i in range(len(paths))]
        X = rng.normal(size=(len(paths), 24))
        cohort = Cohort.build(X, names, names, known)
        subjects = [Subject(n, {"T1w": p}) for n, p in zip(names, paths, strict=True)]
        return preprocess_inputs(cohort, subjects, small_encoder)

    return preprocess


def test_regions_are_ranked_and_all_subjects_shown(run):
    inputs = run()
    assert inputs.importance.index[0] == "region_9"
    assert [preview.name for preview in inputs.previews] == [
        f"sub-{i}" for i in range(16)
    ]
    assert inputs.failures == inputs.remarks == []


def test_voxels_are_not_kept_with_the_tokens(run, monkeypatch):
    kept = []

    def count(subjects, *arguments, **options):
        kept.extend(subject.processed.data.size for subject in subjects)
        return attribute_tokens(subjects, *arguments, **options)

    monkeypatch.setattr(report_inputs, "attribute_tokens", count)
    assert run().importance is not None
    assert kept == [0] * 16


def test_missing_scan_is_reported(run, brains):
    inputs = run([brains[0], "gone_T1w.nii.gz", brains[2]], [0, 1, 0])
    assert len(inputs.previews) == 2
    ((name, reason),) = inputs.failures
    assert name == "sub-1"
    assert "gone_T1w.nii.gz" in reason
    assert inputs.importance is None  # too few of a class


def test_without_labels_there_is_no_importance(run, brains):
    assert run(brains[:3], None).importance is None


def test_large_cohort_shows_the_most_distant_rows(run, monkeypatch):
    monkeypatch.setattr(report_inputs, "_MOST_SHOWN", 4)
    inputs = run(labels=None)
    assert len(inputs.previews) == 4
    assert "Only 4 of 16 rows are shown" in inputs.remarks[0]
