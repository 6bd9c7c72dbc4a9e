import pytest

from brainfeat.exceptions import InputError
from brainfeat.segmentation.names import collect_names, read_names, write_names


def test_names_survive_a_round_trip(tmp_path):
    path = tmp_path / "dseg.tsv"
    write_names(path, [0, -3, 7], {-3: "Gehörgang"})
    assert path.read_text("utf-8").splitlines()[0] == "index\tname"
    assert read_names(path) == {0: "background", -3: "Gehörgang", 7: "class_7"}


def test_rows_without_an_integer_label_are_ignored(tmp_path):
    path = tmp_path / "dseg.tsv"
    path.write_text("index\tname\n-3\tGehörgang\n--4\tno\n5-\tno\n", "utf-8")
    assert read_names(path) == {-3: "Gehörgang"}
    assert read_names(tmp_path / "absent.tsv") == {}


def test_unreadable_table_is_named(tmp_path):
    path = tmp_path / "dseg.tsv"
    path.write_bytes("index\tname\n-3\tGehörgang\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"dseg\.tsv: not a readable table"):
        read_names(path)


def test_different_names_of_one_label_are_reported(tmp_path, caplog):
    """They may be different structures of two cohorts."""
    tables = ("12\tBack\n9\tleft\n", "12\tback\n24\tfront\n", "24\ttop\n9\tL\n")
    label_maps = []
    for index, rows in enumerate(tables):
        label_map = tmp_path / f"truth{index}" / "sub-1_dseg.nii.gz"
        label_map.parent.mkdir()
        label_map.with_name("dseg.tsv").write_text(f"index\tname\n{rows}")
        label_maps += [label_map, label_map.with_name("sub-2_dseg.nii.gz")]
    names = collect_names(label_maps)
    assert names == {12: "Back", 9: "left", 24: "front"}
    (message,) = caplog.messages
    assert message == (
        f"{tmp_path}/truth2/dseg.tsv: label 24 is top there, but front in "
        f"{tmp_path}/truth1/dseg.tsv; they are learnt as one (1 more like it)"
    )
