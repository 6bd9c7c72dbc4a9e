import json

import numpy as np
import pytest

from brainfeat.exceptions import TableError
from brainfeat.merging import merge_tables
from brainfeat.shards import Shard
from brainfeat.tables import EmbeddingTable, TableRow, read_embeddings

PROVENANCE = {
    "checkpoint_sha256": "c0ffee",
    "preprocessing_sha256": "facade",
    "pooling": "mean",
    "modalities": ["T1w", "FLAIR"],
    "n_features": 5,
}
SUFFIXES = [".parquet", ".csv", ".tsv"]


def _rows(n_rows):
    ages = ["71.0", None, "64.0", "65.5", "7.0"]
    return [
        TableRow(
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


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_merged_shards_are_the_table_of_the_whole_to_the_last_bit(tmp_path, suffix):
    rows = _rows(11)
    whole = _write(tmp_path / f"whole{suffix}", rows)
    shards = [Shard(index, 4) for index in (1, 2, 3, 4)]
    parts = [
        _write(tmp_path / f"{s.index}{suffix}", s.take(rows), shard=str(s))
        for s in shards
    ]
    output = tmp_path / "new" / f"merged{suffix}"
    # In any order: each part says which it is.
    assert merge_tables(parts[::-1], output) == 11
    assert output.read_bytes() == whole.read_bytes()
    assert json.loads(output.with_suffix(".json").read_text()) == PROVENANCE
    names = sorted(path.name for path in output.parent.iterdir())
    assert names == sorted(["merged.json", f"merged{suffix}"])


def test_a_merged_table_is_gone_on_with(tmp_path):
    rows = _rows(6)
    parts = [_write(tmp_path / f"{i}.parquet", rows[i : i + 2]) for i in (0, 2)]
    merge_tables(parts, tmp_path / "all.parquet")
    with EmbeddingTable(tmp_path / "all.parquet", PROVENANCE) as table:
        assert [table.has_row(row, "one") for row in rows] == [True] * 4 + [False] * 2


def test_rows_that_two_parts_have_are_taken_once_and_formats_mix(tmp_path):
    rows = _rows(6)
    for row in rows:
        row.metadata["age"] = "71"
    first = _write(tmp_path / "a.csv", rows[:4])
    second = _write(tmp_path / "b.parquet", rows[2:])
    assert merge_tables([first, second], tmp_path / "all.tsv") == 6
    expected = _write(tmp_path / "whole.tsv", rows)
    assert (tmp_path / "all.tsv").read_bytes() == expected.read_bytes()


def test_a_list_layout_holds_the_same(tmp_path):
    rows = _rows(5)
    wide = _write(tmp_path / "wide.parquet", rows)
    merge_tables([wide], tmp_path / "lists.parquet", layout="list")
    metadata, embeddings, provenance = read_embeddings(tmp_path / "lists.parquet")
    expected = read_embeddings(wide)
    assert metadata.equals(expected[0])
    np.testing.assert_array_equal(embeddings, expected[1])
    assert provenance == expected[2]


def test_what_does_not_belong_together_is_refused(tmp_path):
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
    assert not output.exists()
    output.write_bytes(b"mine")
    with pytest.raises(TableError, match="exists"):
        merge_tables([first], output)
    merge_tables([first], output, overwrite=True)
    assert len(read_embeddings(output)[0]) == 2
