import numpy as np
import pytest

from brainfeat.exceptions import InputError
from brainfeat.pretraining.label_maps import (
    collect_structures,
    find_label_maps,
    read_codes,
)
from brainfeat.subjects.subject import Subject

TABLE = "index\tname\n0\tbackground\n4\tleft\n9\tright\n4\tboth\n9\tboth\n"


@pytest.fixture
def touch(tmp_path):
    def touch(*names, text=""):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / names[-1]

    return touch


@pytest.fixture
def table(touch):
    return touch("table.tsv", text=TABLE)


def subject(path, name="x", session=None, **metadata):
    return Subject(name, {"T1w": str(path)}, session, metadata)


@pytest.mark.parametrize(
    ("image", "label_map"),
    [
        ("ixi01_hh_12_T1w2mm.nii.gz", "ixi01_hh_12_dlmuse.nii.gz"),
        ("s1_t1.nii.gz", "s1_t1_seg.nii.gz"),
        ("s1.nii.gz", "s1.nii.gz"),
        ("sub-1/anat/sub-1_T1w.nii.gz", "sub-1/anat/sub-1_desc-aseg_dseg.nii.gz"),
        (
            "sub-1/ses-b/anat/sub-1_ses-b_T1w.nii.gz",
            "sub-1/ses-b/anat/sub-1_ses-b_dseg.nii.gz",
        ),
    ],
)
def test_label_maps_are_found_by_the_names_of_their_subjects(
    touch, table, tmp_path, image, label_map
):
    path = touch(f"scans/{image}")
    expected = touch("maps/s10_seg.nii.gz", "maps/sub-1_ses-a.nii", f"maps/{label_map}")
    (found,) = find_label_maps([subject(path)], folder=tmp_path / "maps", table=table)
    assert found.metadata == {"label_map": str(expected), "label_table": str(table)}


def test_subjects_without_a_label_map_are_kept(touch, table, tmp_path):
    paths = [touch("scans/a_T1w.nii"), touch("scans/b_T1w.nii")]
    touch("maps/b_seg.nii")
    rows = [subject(path) for path in paths]
    found = find_label_maps(rows, folder=tmp_path / "maps", table=table)
    assert ["label_map" in row.metadata for row in found] == [False, True]
    with pytest.raises(InputError, match="named as their subjects, such as x"):
        find_label_maps(rows[:1], folder=tmp_path / "maps", table=table)


def test_names_that_fit_several_label_maps_fit_none(touch, table, tmp_path):
    path = touch("scans/s_T1w.nii")
    touch("maps/s_1_seg.nii", "maps/s_2_seg.nii")
    with pytest.raises(InputError, match="got none that fits"):
        find_label_maps([subject(path)], folder=tmp_path / "maps", table=table)


def test_a_manifest_names_label_maps_relative_to_itself(touch, tmp_path):
    path, label_map = touch("a.nii"), touch("there/map.nii")
    own = touch("there/map.tsv", text=TABLE)
    row = subject(path, label_map="there/map.nii")
    (found,) = find_label_maps([row], manifests=[tmp_path / "list.csv"])
    assert found.metadata == {"label_map": str(label_map), "label_table": str(own)}
    row = subject(path, label_map="nowhere.nii")
    with pytest.raises(InputError, match=r"nowhere\.nii: no such file \(label_map"):
        find_label_maps([row], manifests=[tmp_path / "list.csv"])


def test_a_label_map_needs_a_table(touch):
    row = subject(touch("a.nii"), label_map=str(touch("maps/a_seg.nii")))
    with pytest.raises(InputError, match=r"a_seg\.nii: expected a table .*label-table"):
        find_label_maps([row])


def test_values_are_parts_of_several_structures(table, touch):
    other = touch("other.tsv", text="index\tname\n50\tboth\n7\tleft\n3\tnew\n")
    rows = [
        subject("a", label_map="m", label_table=str(path)) for path in (table, other)
    ]
    structures, codes = collect_structures([*rows, subject("b")])
    assert structures.names == ("left", "right", "both", "new")
    assert structures.partition == ("left", "right", "new")
    members = np.array(structures.members)  # R L
    values = np.array([[4, 9, 1], [0, 4, 4]])
    labels = codes[str(table)].apply(values)
    assert labels.dtype == np.uint8
    for name, row in zip(structures.names, members, strict=True):
        parts = {4: {"left", "both"}, 9: {"right", "both"}}
        expected = [[name in parts.get(v, ()) for v in line] for line in values]
        assert np.array_equal(np.array([False, *row])[labels], expected)
    assert codes[str(table)].known == (True, True, True, False)
    assert codes[str(other)].known == (True, False, True, True)


def test_tables_without_labels_are_refused(touch):
    path = touch("t.tsv", text="number\tname\n1\ta\n")
    with pytest.raises(InputError, match=r"t\.tsv: expected columns index and name"):
        read_codes(path)
    with pytest.raises(InputError, match=r"no\.tsv: not a readable table"):
        read_codes(path.with_name("no.tsv"))
