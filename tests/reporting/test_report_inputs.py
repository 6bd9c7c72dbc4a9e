import numpy as np
import pandas as pd
import pytest

from brainfeat.reporting import report_inputs
from brainfeat.reporting.cohort import Cohort
from brainfeat.reporting.importance import attribute_tokens
from brainfeat.reporting.report_inputs import look_at_inputs
from brainfeat.subjects.subject import Subject

Y = np.arange(16) % 2


@pytest.fixture
def look(small_encoder, brains, small_atlas, without_registration, monkeypatch, rng):
    assert without_registration is None
    monkeypatch.setattr(report_inputs, "template_regions", lambda: small_atlas)

    def run(paths=brains, labels=Y):
        known = pd.DataFrame(index=range(len(paths)))
        if labels is not None:
            known["diagnosis"] = labels
        names = [f"sub-{i}" for i in range(len(paths))]
        X = rng.normal(size=(len(paths), 24))
        cohort = Cohort.build(X, names, names, known)
        subjects = [Subject(n, {"T1w": p}) for n, p in zip(names, paths, strict=True)]
        return look_at_inputs(cohort, subjects, small_encoder)

    return run


def test_regions_are_ranked_and_everyone_is_shown(look):
    found = look()
    assert found.importance.index[0] == "region_9"
    assert [preview.name for preview in found.previews] == [
        f"sub-{i}" for i in range(16)
    ]
    assert found.failures == found.remarks == []


def test_voxels_are_not_kept_with_the_tokens(look, monkeypatch):
    kept = []

    def count(subjects, *arguments, **options):
        kept.extend(subject.processed.data.size for subject in subjects)
        return attribute_tokens(subjects, *arguments, **options)

    monkeypatch.setattr(report_inputs, "attribute_tokens", count)
    assert look().importance is not None
    assert kept == [0] * 16


def test_scan_that_is_gone_is_told(look, brains):
    found = look([brains[0], "gone_T1w.nii.gz", brains[2]], [0, 1, 0])
    assert len(found.previews) == 2
    ((name, reason),) = found.failures
    assert name == "sub-1"
    assert "gone_T1w.nii.gz" in reason
    assert found.importance is None  # too few of a class


def test_without_labels_there_is_no_importance(look, brains):
    assert look(brains[:3], None).importance is None


def test_of_a_large_cohort_the_farthest_are_shown(look, monkeypatch):
    monkeypatch.setattr(report_inputs, "_MOST_SHOWN", 4)
    found = look(labels=None)
    assert len(found.previews) == 4
    assert "4 of 16 rows are looked at" in found.remarks[0]
