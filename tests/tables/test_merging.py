import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainfeat.exceptions import InputError, TableError
from brainfeat.io.locks import lock_folder
from brainfeat.subjects.subject import Subject
from brainfeat.tables.embedding_table import EmbeddingTable, read_embeddings
from brainfeat.tables.merging import Shard, merge_tables, without_failed

PROVENANCE = {
    "checkpoint_sha256": "c0ffee",
    "preprocessing_sha256": "facade",
    "pooling": "mean",
    "modalities": ["T1w", "FLAIR"],
    "n_features": 5,
    "precision": "float32",
}
SUFFIXES = [".parquet", ".csv", ".tsv"]


def _rows(n_rows):
    ages = ["71.0", None, "64.0", "65.5", "7.0"]
    return [
        Subject(
            participant_id=f"sub-{index:02d}",
            images={"T1w": f"/data/sub-{index:02d}_T1w.nii.gz"},
            metadata={"age": ages[index % 5], "site": f"0{index % 2}"},
        )
        for index in range(n_rows)
    ]


def _write(path, rows, *, sha256="one", **provenance):
    with EmbeddingTable(path, {**PROVENANCE, **provenance}) as table:
        for row in rows:
            seed = int(row.participant_id[4:])
            vector = np.random.default_rng(seed).normal(size=5).astype(np.float32)
            table.append(row, sha256, vector)
        table.finish(rows)
    return path


@given(st.integers(0, 50), st.integers(1, 60))
def test_shards_joined_in_order_are_the_whole(n_items, count):
    items = list(range(n_items))
    parts = [Shard(index, count).take(items) for index in range(1, count + 1)]
    assert [item for part in parts for item in part] == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/", "/4", "a/b", "1/4/2"])
def test_malformed_shard_is_refused(text):
    with pytest.raises(InputError, match="expected I/N"):
        Shard.parse(text)
    assert str(Shard.parse("2/3")) == "2/3"


def test_parts_of_two_precisions_cause_a_warning(tmp_path, caplog):
    rows, precisions = _rows(4), ["bfloat16", "float32", "float32", "bfloat16"]
    parts = [
        _write(tmp_path / f"{index}.csv", [row], precision=precision)
        for index, (row, precision) in enumerate(zip(rows, precisions, strict=True))
    ]
    merge_tables(parts, tmp_path / "all.csv")
    assert len(caplog.messages) == 1
    assert read_embeddings(tmp_path / "all.csv")[2]["precision"] == "bfloat16, float32"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_merged_shards_equal_the_whole_table_to_the_last_bit(tmp_path, suffix):
    rows = _rows(11)
    whole = _write(tmp_path / f"whole{suffix}", rows)
    shards = [Shard(index, 4) for index in (1, 2, 3, 4)]
    parts = [
        _write(tmp_path / f"{s.index}{suffix}", s.take(rows), shard=str(s))
        for s in shards
    ]
    output = tmp_path / "new" / f"merged{suffix}"
    # In any order: each part names its shard.
    assert merge_tables(parts[::-1], output) == (11, ())
    assert output.read_bytes() == whole.read_bytes()
    assert json.loads(output.with_suffix(".json").read_text()) == PROVENANCE
    names = sorted(path.name for path in output.parent.iterdir())
    assert names == sorted(["merged.json", f"merged{suffix}"])


def test_merged_table_can_be_extended(tmp_path):
    rows = _rows(6)
    parts = [_write(tmp_path / f"{i}.parquet", rows[i : i + 2]) for i in (0, 2)]
    merge_tables(parts, tmp_path / "all.parquet")
    with EmbeddingTable(tmp_path / "all.parquet", PROVENANCE) as table:
        known = [table.known_sha256(row) == "one" for row in rows]
        assert known == [True] * 4 + [False] * 2


def test_common_rows_are_kept_once_and_formats_mix(tmp_path):
    rows = _rows(6)
    for row in rows:
        row.metadata["age"] = "71"
    first = _write(tmp_path / "a.csv", rows[:4])
    second = _write(tmp_path / "b.parquet", rows[2:])
    assert merge_tables([first, second], tmp_path / "all.tsv").n_rows == 6
    expected = _write(tmp_path / "whole.tsv", rows)
    assert (tmp_path / "all.tsv").read_bytes() == expected.read_bytes()


def test_tables_that_do_not_belong_together_are_refused(tmp_path):
    rows = _rows(4)
    first = _write(tmp_path / "a.parquet", rows[:2])
    other = _write(tmp_path / "b.parquet", rows[2:], pooling="cls")
    changed = _write(tmp_path / "c.parquet", rows[:1], sha256="two")
    output = tmp_path / "all.parquet"
    with pytest.raises(TableError, match=r"b\.parquet: made with another pooling"):
        merge_tables([first, other], output)
    with pytest.raises(TableError, match=r"c\.parquet: .*sub-00.* has changed"):
        merge_tables([first, changed], output)
    with pytest.raises(TableError, match=r"d\.parquet: no such file"):
        merge_tables([first, tmp_path / "d.parquet"], output)
    with pytest.raises(TableError, match="got none"):
        merge_tables([], output)
    cut = _write(tmp_path / "e.csv", rows)
    cut.write_text(cut.read_text().replace("input_sha256", "sha", 1))
    with pytest.raises(TableError, match=r"e\.csv: .*none called input_sha256"):
        merge_tables([first, cut], output)
    assert not output.exists()
    output.write_bytes(b"mine")
    with pytest.raises(TableError, match="exists"):
        merge_tables([first], output)
    merge_tables([first], output, overwrite=True)
    assert len(read_embeddings(output)[0]) == 2


def test_output_that_cannot_be_written_is_named(tmp_path):
    part, file = tmp_path / "1.csv", tmp_path / "file"
    _write(part, _rows(2))
    file.touch()
    with pytest.raises(TableError) as caught:
        merge_tables([part], file / "all.csv")
    message = f"{file / 'all.csv'}: cannot be written (Not a directory)."
    assert str(caught.value) == message


def test_absent_shards_are_named(tmp_path):
    rows = _rows(8)
    shards = [Shard(index, 4) for index in (4, 2)]
    parts = [
        _write(tmp_path / f"{s.index}.tsv", s.take(rows), shard=str(s)) for s in shards
    ]
    output = tmp_path / "all.tsv"
    with pytest.raises(TableError, match="shards 1,3 of 4 have no table"):
        merge_tables(parts, output)
    assert not output.exists()
    merged = merge_tables(parts, output, allow_missing=True)
    assert merged == (4, (Shard(1, 4), Shard(3, 4)))


@pytest.mark.parametrize(
    ("n_failed", "missing"),
    [([], [1, 2, 3]), ([1], [1, 3]), ([2, 1], [3]), ([9, 1, 2], []), ([0], [1, 2, 3])],
)
def test_shards_of_which_all_inputs_failed_are_not_missing(n_failed, missing):
    absent = {Shard(1, 3): 2, Shard(2, 3): 1, Shard(3, 3): 3}
    assert [shard.index for shard in without_failed(absent, n_failed)] == missing


def test_shards_without_inputs_are_not_missing(tmp_path):
    rows = _rows(2)
    origin = {"n_listed": 2}
    parts = [  # of 1/4 and 3/4, which have no input
        _write(tmp_path / f"{i}.csv", [row], shard=f"{i}/4", **origin)
        for i, row in zip((2, 4), rows, strict=True)
    ]
    assert [len(Shard(index, 4).take(rows)) for index in (1, 2, 3, 4)] == [0, 1, 0, 1]
    assert merge_tables(parts, tmp_path / "all.csv") == (2, ())


def test_shards_of_different_counts_are_refused(tmp_path):
    rows = _rows(4)
    first = _write(tmp_path / "a.tsv", rows[:2], shard="1/2")
    second = _write(tmp_path / "b.tsv", rows[2:], shard="2/3")
    with pytest.raises(TableError, match=r"of one run.*a\.tsv \(1/2\), b\.tsv \(2/3\)"):
        merge_tables([first, second], tmp_path / "all.tsv")
    assert not (tmp_path / "all.tsv").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_json_file_of_something_else_is_kept(tmp_path, overwrite):
    part = _write(tmp_path / "a.tsv", _rows(2))
    (tmp_path / "participants.json").write_text('{"age": {"Units": "years"}}')
    with pytest.raises(TableError, match=r"participants\.json: exists and is not ours"):
        merge_tables([part], tmp_path / "participants.tsv", overwrite=overwrite)
    assert "years" in (tmp_path / "participants.json").read_text()
    assert not (tmp_path / "participants.tsv").exists()


def test_table_of_an_unfinished_run_is_refused(tmp_path):
    rows = _rows(4)
    path = _write(tmp_path / "1.csv", rows[:2])
    with EmbeddingTable(path, PROVENANCE) as table:
        table.append(rows[2], "one", np.zeros(5, np.float32))
        with pytest.raises(TableError, match=r"ended, got .*\.1\.csv\.partial"):
            merge_tables([path], tmp_path / "all.csv")
    # As after a kill: its row is not in the table yet.
    with pytest.raises(TableError, match=r"ended, got .*\.1\.csv\.partial"):
        merge_tables([path], tmp_path / "all.csv")
    with EmbeddingTable(path, PROVENANCE) as table:
        table.finish(rows[:3])
    assert merge_tables([path], tmp_path / "all.csv").n_rows == 3


def test_table_of_a_running_process_is_not_replaced(tmp_path):
    rows = _rows(4)
    target = _write(tmp_path / "all.csv", rows[:2])
    part = _write(tmp_path / "part.csv", rows[1:3])
    with EmbeddingTable(target, PROVENANCE) as table:
        # It would have as many rows: the run would take them for its own.
        with pytest.raises(TableError, match=r"ended, got .*\.all\.csv\.partial"):
            merge_tables([part], target, overwrite=True)
        table.append(rows[3], "one", np.zeros(5, np.float32))
        table.finish([rows[3]])
    metadata, _, _ = read_embeddings(target)
    assert metadata["participant_id"].tolist() == ["sub-00", "sub-01", "sub-03"]


@pytest.mark.skipif(sys.platform == "win32", reason="has no flock")
def test_only_one_process_merges_to_a_table(tmp_path):
    part = _write(tmp_path / "part.csv", _rows(2))
    folder = tmp_path / ".all.csv.merging"
    lock = lock_folder(folder)
    with pytest.raises(TableError, match="another process is writing this table"):
        merge_tables([part], tmp_path / "all.csv")
    lock.release()  # as after a kill
    (folder / "table.csv").write_text("cut short")
    assert merge_tables([part], tmp_path / "all.csv") == (2, ())
    assert not folder.exists()
