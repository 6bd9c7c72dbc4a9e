from types import SimpleNamespace

import numpy as np
import pytest

from brainfeat.preprocessing.quality import Quality
from brainfeat.segmentation.prediction import Labelled
from brainfeat.segmentation.volumes import as_json, measure_labels
from brainfeat.volume import Geometry

NAMES = {0: "background", -5: "lesion", 300: "core", 9: "nowhere"}


def measured(labels, names=NAMES):
    affine = np.diag([-2.0, 0.5, 3.0, 1.0])
    quality = Quality(0.9, 1234.5, "far off")
    segmentation = SimpleNamespace(
        grid=SimpleNamespace(geometry=Geometry(labels.shape, affine)),
        inputs=SimpleNamespace(coarse=SimpleNamespace(quality=quality)),
    )
    labelled = Labelled(labels, np.zeros(labels.shape, np.float32), float("nan"))
    return measure_labels(labelled, segmentation, names)


def test_volumes_and_parts_are_those_of_the_label_map():
    rng = np.random.default_rng(0)
    labels = np.zeros((9, 14, 11), np.int32)
    labels[1:3, 2:5, 1] = labels[3, 5, 2] = -5  # they touch by a corner
    labels[7, 12, 9] = -5
    labels[5:8, 7:10, 4:8] = 300 * (rng.random((3, 3, 4)) > 0.2)
    row = measured(labels)
    assert row["lesion_count"] == 2
    for label, name in NAMES.items():
        if label != 0:
            expected = (labels == label).sum() * 2.0 * 0.5 * 3.0 / 1000
            assert row[f"{name}_ml"] == pytest.approx(expected)
    assert row["nowhere_count"] == 0
    assert (row["brain_ml"], row["qc_doubt"]) == (1234.5, "far off")
    assert as_json(row)["mean_uncertainty"] is None


def test_label_map_without_structures_has_no_volumes():
    row = measured(np.zeros((3, 5, 4), np.uint8))
    assert [row[f"{name}_ml"] for name in ("lesion", "core", "nowhere")] == [0] * 3


def test_structure_that_is_named_brain_is_kept():
    labels = np.ones((3, 5, 4), np.uint8)
    row = measured(labels, {0: "background", 1: "brain"})
    assert row["brain_ml"] == pytest.approx(60 * 3.0 / 1000)
    assert row["qc_brain_ml"] == 1234.5
