"""The recipe of the bundled weights reads a folder of scans as its text says."""

from pathlib import Path

import pytest

from brainfeat.pretraining.label_maps import read_codes
from brainfeat.simulation.anatomy import BRAIN_CLASSES
from brainfeat.simulation.head_labels import HeadLabels

FOLDER = Path(__file__).parent.parent / "examples"
COLUMNS = ("file", "modality", "subject", "label_map", "label_table", "brain")
ROWS = [
    ("ixi/a_T1w.nii.gz", "T1w", "a", "ixi/a_dlmuse.nii.gz", "", "head"),
    ("ixi/b_T1w.nii.gz", "T1w", "b", "ixi/b_dlmuse.nii.gz", "", "head"),
    ("own/c_T1w.nii.gz", "T1w", "c", "own/c_seg.nii.gz", "own/names.tsv", "stripped"),
    ("own/c_FLAIR.nii.gz", "FLAIR", "c", "", "", "stripped"),
    ("own/c_T1ce.nii.gz", "T1ce", "c", "", "", "stripped"),
    ("own/c2_T1w.nii.gz", "T1w", "c", "own/c2_seg.nii.gz", "", "stripped"),
    ("mne/d_T1w.mgz", "T1w", "d", "", "", "head"),
    ("own/e_T2w.nii.gz", "T2w", "", "", "", "head"),
]


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import train_brainfound_tiny

    return train_brainfound_tiny


def test_people_of_a_folder_are_read_from_its_manifest(recipe, tmp_path):
    lines = ["\t".join(row) for row in (COLUMNS, *ROWS)]
    (tmp_path / "manifest.tsv").write_text("\n".join(lines))
    read = recipe.read_scans(tmp_path)
    found = [(s.participant_id, s.session_id, tuple(s.paths)) for s in read]
    assert found == [
        ("a", "1", ("T1w",)),
        ("c", "1", ("T1w", "FLAIR")),
        ("c", "1", ("T1w",)),
        ("c", "1", ("FLAIR",)),
        ("c", "2", ("T1w",)),
        ("own_e_T2w.nii.gz", "1", ("T2w",)),
    ]
    first, second, _, flair, other, _ = (subject.metadata for subject in read)
    assert first["label_map"] == str(tmp_path / "ixi/a_dlmuse.nii.gz")
    assert first["label_table"] == str(FOLDER / "label_tables" / "muse.tsv")
    assert second["label_table"] == str(tmp_path / "own/names.tsv")
    # Without a table nobody knows what the labels are.
    assert "label_map" not in flair
    assert "label_map" not in other


def test_people_that_the_weights_are_tried_on_are_those_of_the_benchmark(
    recipe, monkeypatch
):
    monkeypatch.syspath_prepend(FOLDER / "benchmarks")
    from people_scans import find_unseen

    files = [
        *(f"ixi/ixi{n:03d}_T1w2mm.nii.gz" for n in range(125)),
        *(f"ixi/ixi{n:03d}_dlmuse.nii.gz" for n in range(125)),
        *(f"ds000011/ds0011_{n:02d}_T2w.nii.gz" for n in range(11)),
        *(f"ds002748/ds2748_{n:02d}_T1w.nii.gz" for n in range(13)),
        "mne/mne_ecog_T1w.mgz",
        "open_ms/ljmslong12_s1_FLAIR.nii.gz",
        "open_ms/ljms07_FLAIR.nii.gz",
        "single/nii2mesh_bet_T1w_stripped.nii.gz",
        "single/pumi_T1w.nii.gz",
    ]
    unseen = recipe.find_unseen(files)
    assert len(unseen) == 40 + 3 + 4 + 3
    assert unseen == find_unseen(files)


def test_tables_name_the_same_tissues_and_structures(recipe):
    muse, synthseg = (
        {name for names in read_codes(path).values() for name in names}
        for path in (recipe.TABLES / "muse.tsv", recipe.HEAD_TABLE)
    )
    assert set(BRAIN_CLASSES) <= muse
    assert set(BRAIN_CLASSES) - synthseg == {"csf"}
    assert synthseg < muse
    sided = {name for name in muse if name.endswith("_left")}
    assert {name.replace("_left", "_right") for name in sided} < muse
    labels = HeadLabels.read(recipe.HEAD_TABLE)
    assert labels.mirror[17] == 53
    assert labels.mirror[labels.mirror[4]] == 4
