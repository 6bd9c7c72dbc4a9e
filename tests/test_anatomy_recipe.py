"""Label maps of two protocols become those of one list of structures."""

from pathlib import Path

import numpy as np
import pytest

from brainfeat.volume import Geometry, Volume

FOLDER = Path(__file__).parent.parent / "examples"


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import anatomy_labels

    return anatomy_labels


def test_labels_of_both_sides_are_divided_between_them(recipe):
    labels = np.zeros((6, 3, 2), np.int32)
    labels[0], labels[1:5], labels[5] = 81, 95, 82  # right, corpus callosum, left
    volume = Volume(labels, Geometry(labels.shape, np.eye(4)))
    common = recipe.to_common(volume, "muse").data
    np.testing.assert_array_equal(common[:, 0, 0], [41, 41, 41, 2, 2, 2])


def test_parcels_and_unknown_labels(recipe):
    labels = np.array([[[1003, 2035, 24, 16, 5000]]], np.int32)
    volume = Volume(labels, Geometry(labels.shape, np.eye(4)))
    common = recipe.to_common(volume, "freesurfer").data
    assert common.ravel().tolist() == [3, 42, 0, 16, 0]


def test_both_protocols_have_every_structure_on_both_sides(recipe):
    names = recipe.read_names()
    assert len(names) == 31
    sided = {n.rpartition("_")[0] for n in names.values() if n.endswith("_left")}
    assert {f"{name}_right" for name in sided} <= set(names.values())
    for row in recipe._rows():
        assert recipe._labels(row["muse"])
        assert recipe._labels(row["freesurfer"])


def test_people_that_the_encoder_is_tried_on_are_left_out(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    import train_anatomy_decoder

    for number in (*range(100, 112), 175, 256):
        for end in ("T1w2mm", "dlmuse"):
            path = tmp_path / "ixi" / f"ixi{number}_hh_1_{end}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            path.touch()
    people = train_anatomy_decoder.find_people(tmp_path)
    names = [person.name.partition("_")[0] for person in people]
    kept = [100, 102, 103, 105, 106, 108, 109, 111]
    assert names == [f"ixi{number}" for number in kept]
