import csv
import itertools
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from brainfeat.exceptions import TableError
from brainfeat.preprocessing.quality import Quality
from brainfeat.subjects.subject import ADDED_COLUMNS, Subject
from brainfeat.tables.embedding_table import (
    EmbeddingTable,
    read_embeddings,
    working_path,
)
from brainfeat.tables.merging import merge_tables

SUFFIXES = [".parquet", ".csv", ".tsv"]
PROVENANCE = {
    "brainfeat_version": "1.2.3",
    "checkpoint": "tiny",
    "checkpoint_sha256": "c0ffee",
    "preprocessing_sha256": "facade",
    "pooling": "mean",
    "modalities": ["T1w", "FLAIR"],
    "n_features": 5,
    "precision": "float32",
}


def _row(index, **metadata):
    images = {"T1w": f"/data/sub-{index:02d}_T1w.nii.gz"}
    if index % 2:
        images["FLAIR"] = f"/data/sub-{index:02d}_FLAIR.nii.gz"
    return Subject(participant_id=f"sub-{index:02d}", images=images, metadata=metadata)


def _vector(index):
    return np.random.default_rng(index).normal(size=5).astype(np.float32)


def _embed(path, rows, *, sha256="one", provenance=PROVENANCE, overwrite=False):
    """Embed the rows that are not done yet; return their numbers."""
    done = []
    with EmbeddingTable(path, provenance, overwrite=overwrite) as table:
        for row in rows:
            if table.known_sha256(row) != sha256:
                done.append(int(row.participant_id[4:]))
                table.append(row, sha256, _vector(done[-1]) + (sha256 != "one"))
        table.finish(rows)
    return done


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_table_contains_names_metadata_vectors_and_provenance(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    rows = [_row(1, age="71", group="a"), _row(2, age=None, group="b"), _row(3)]
    assert _embed(path, rows) == [1, 2, 3]
    metadata, embeddings, provenance = read_embeddings(path)
    assert list(metadata.columns) == [
        *("participant_id", "session_id", "image", "T1w", "FLAIR"),
        *("modalities", "qc_voxel_mm", "qc_similarity", "qc_brain_ml", "qc_doubt"),
        *("input_sha256", "age", "group"),
    ]
    assert metadata["modalities"].tolist() == ["T1w+FLAIR", "T1w", "T1w+FLAIR"]
    assert metadata["participant_id"].tolist() == ["sub-01", "sub-02", "sub-03"]
    assert metadata["image"].equals(metadata["T1w"].rename("image"))
    assert metadata["FLAIR"].isna().tolist() == [False, True, False]
    assert metadata["age"].tolist()[0] == 71
    assert metadata["age"].isna().tolist() == [False, True, True]
    assert embeddings.dtype == np.float32
    np.testing.assert_array_equal(embeddings, [_vector(1), _vector(2), _vector(3)])
    assert provenance == PROVENANCE == json.loads((tmp_path / "out.json").read_text())
    assert _names(tmp_path) == sorted([f"out{suffix}", "out.json"])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_unfinished_run_resumes_to_the_same_bytes(tmp_path, suffix):
    rows = [_row(index, age=str(50 + index)) for index in range(6)]
    _embed(tmp_path / f"whole{suffix}", rows)
    path = tmp_path / f"resumed{suffix}"
    with EmbeddingTable(path, PROVENANCE) as table:
        for row in rows[:4]:
            table.append(row, "one", _vector(int(row.participant_id[4:])))
    assert not path.exists()
    assert _embed(path, rows) == [4, 5]
    assert path.read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    assert not [name for name in _names(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_finished_table_can_be_extended(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    _embed(path, [_row(3), _row(1)])
    assert _embed(path, [_row(0), _row(1), _row(2)]) == [0, 2]
    metadata, embeddings, _ = read_embeddings(path)
    assert metadata["participant_id"].str[-1].astype(int).tolist() == [3, 1, 0, 2]
    np.testing.assert_array_equal(embeddings, [_vector(i) for i in (3, 1, 0, 2)])


def test_second_run_does_not_touch_a_finished_table(tmp_path):
    path = tmp_path / "out.parquet"
    rows = [_row(1, age="71"), _row(2, age="70.5")]
    _embed(path, rows)
    before = path.stat()
    assert _embed(path, rows) == []
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino == before.st_ino


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_changed_file_is_embedded_again_in_its_row(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    _embed(path, [_row(1), _row(2), _row(3)])
    assert _embed(path, [_row(2)], sha256="two") == [2]
    metadata, embeddings, _ = read_embeddings(path)
    assert metadata["input_sha256"].tolist() == ["one", "two", "one"]
    np.testing.assert_array_equal(embeddings, [_vector(1), _vector(2) + 1, _vector(3)])


def test_current_manifest_describes_rows_embedded_before(tmp_path):
    path = tmp_path / "out.parquet"
    _embed(path, [_row(1, age="71"), _row(2)])
    assert _embed(path, [_row(1, age="72", group="a")]) == []
    metadata, embeddings, _ = read_embeddings(path)
    assert metadata["age"].tolist()[0] == 72
    assert metadata["group"].tolist()[0] == "a"
    np.testing.assert_array_equal(embeddings, [_vector(1), _vector(2)])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_subject_that_gains_or_loses_an_image_keeps_one_row(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    both, others = _row(1), [_row(3), _row(2)]
    one = replace(both, images={"T1w": both.image})
    _embed(path, [others[0], one, others[1]])
    for row, sha256 in ((both, "two"), (one, "three")):
        with EmbeddingTable(path, PROVENANCE) as table:
            table.finish([row])  # it failed: the old row is better than none
        assert len(read_embeddings(path)[0]) == 3
        _embed(path, [row, *others], sha256=sha256)
        metadata, embeddings, _ = read_embeddings(path)
        assert metadata["participant_id"].tolist() == ["sub-03", "sub-02", "sub-01"]
        assert metadata["FLAIR"].isna().tolist() == [False, True, row is one]
        np.testing.assert_array_equal(embeddings, [_vector(i) + 1 for i in (3, 2, 1)])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_of_two_precisions_cause_a_warning(tmp_path, suffix, caplog):
    path = tmp_path / f"out{suffix}"
    coarse, fine = ({**PROVENANCE, "precision": p} for p in ("bfloat16", "float32"))
    _embed(path, [_row(1)], provenance=coarse)
    _embed(path, [_row(1, age="71")], provenance=fine)  # nothing is embedded
    assert read_embeddings(path)[2]["precision"] == "bfloat16"
    assert not caplog.messages
    _embed(path, [_row(1), _row(2)], provenance=fine)
    _embed(path, [_row(1), _row(2), _row(3)], provenance=coarse)
    assert len(caplog.messages) == 1
    assert read_embeddings(path)[2]["precision"] == "bfloat16, float32"


def test_killed_run_resumed_in_another_precision_causes_a_warning(tmp_path, caplog):
    path = tmp_path / "out.csv"
    coarse, fine = ({**PROVENANCE, "precision": p} for p in ("bfloat16", "float32"))
    with EmbeddingTable(path, coarse) as table:
        table.append(_row(1), "one", _vector(1))
    _embed(path, [_row(1), _row(2)], provenance=fine)
    (message,) = caplog.messages
    assert message.startswith(f"{path}: rows of float32 join rows of bfloat16; ")
    assert read_embeddings(path)[2]["precision"] == "bfloat16, float32"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_precision_that_was_not_recorded_is_unknown(tmp_path, suffix, caplog):
    path = tmp_path / f"out{suffix}"
    earlier = {name: PROVENANCE[name] for name in PROVENANCE if name != "precision"}
    _embed(path, [_row(1)], provenance=earlier)
    _embed(path, [_row(1, age="71")])  # nothing is embedded
    assert read_embeddings(path)[2]["precision"] == "unknown"
    _embed(path, [_row(1), _row(2)])
    assert read_embeddings(path)[2]["precision"] == "float32, unknown"
    assert not caplog.messages


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_moved_dataset_keeps_one_row_per_subject(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    rows = [_row(1), replace(_row(2), session_id="ses-1"), _row(4)]
    _embed(path, rows)
    moved = [
        replace(row, images={m: p.replace("/data", "/mnt") for m, p in images})
        for row in rows
        for images in [row.images.items()]
    ]
    renamed = replace(moved[2], participant_id="sub-05")
    _embed(path, [*moved[:2], renamed])
    metadata, embeddings, _ = read_embeddings(path)
    names = metadata["participant_id"].tolist()
    assert names == ["sub-04", "sub-01", "sub-02", "sub-05"]
    assert metadata["image"].str.startswith("/mnt").tolist() == [False, *[True] * 3]
    np.testing.assert_array_equal(embeddings, [_vector(i) for i in (4, 1, 2, 5)])


def test_image_of_another_modality_gets_its_own_row(tmp_path):
    path = tmp_path / "out.csv"
    for modality in ("T1w", "FLAIR"):
        _embed(path, [replace(_row(2), images={modality: "/data/sub-02.nii"})])
    assert len(read_embeddings(path)[0]) == 2


def test_runs_that_share_an_image_keep_their_rows(tmp_path):
    path = tmp_path / "out.parquet"
    first = _row(1)
    second = replace(first, images={**first.images, "T1w": "/data/run-2_T1w.nii.gz"})
    for row in (first, second):
        _embed(path, [row])
    assert read_embeddings(path)[0]["T1w"].tolist() == [first.image, second.image]


def test_unfinished_rows_that_are_not_requested_are_dropped(tmp_path):
    path = tmp_path / "out.parquet"
    with EmbeddingTable(path, PROVENANCE) as table:
        table.append(_row(7), "one", _vector(7))
    _embed(path, [_row(1)])
    assert read_embeddings(path)[0]["participant_id"].tolist() == ["sub-01"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("checkpoint_sha256", "checkpoint"),
        ("preprocessing_sha256", "preprocessing"),
        ("pooling", "pooling"),
        ("modalities", "modalities"),
        ("n_features", "number of features"),
    ],
)
def test_rows_of_another_encoder_are_refused(tmp_path, suffix, name, word):
    path = tmp_path / f"out{suffix}"
    _embed(path, [_row(1)])
    before = path.read_bytes()
    other = 5 if name == "n_features" else ["T1w", "FLAIR"]
    changed = {**PROVENANCE, name: 7 if other == 5 else other[:1]}
    with pytest.raises(TableError, match=rf"another {word} .*--overwrite"):
        EmbeddingTable(path, changed)
    assert path.read_bytes() == before
    path.unlink()
    with EmbeddingTable(path, PROVENANCE) as table:
        table.append(_row(1), "one", _vector(1))
    with pytest.raises(TableError, match=rf"another {word} .*--overwrite"):
        EmbeddingTable(path, changed)


def test_table_of_another_shard_is_refused(tmp_path):
    path, shards = tmp_path / "out.parquet", ("1/2", "2/2")
    first, second = ({**PROVENANCE, "shard": shard} for shard in shards)
    _embed(path, [_row(1)], provenance=first)
    assert _embed(path, [_row(1), _row(2)], provenance=first) == [2]
    with pytest.raises(TableError, match=r"shard 2/2, got that of 1/2; .*--overwrite"):
        _embed(path, [_row(3)], provenance=second)
    assert _embed(path, [_row(index) for index in (1, 2, 3)]) == [3]
    assert "shard" not in read_embeddings(path)[2]
    with pytest.raises(TableError, match="shard 2/2, got that of the whole"):
        _embed(path, [_row(4)], provenance=second)


def test_another_library_version_resumes(tmp_path):
    path = tmp_path / "out.parquet"
    _embed(path, [_row(1)])
    newer = {**PROVENANCE, "brainfeat_version": "2.0.0"}
    assert _embed(path, [_row(1), _row(2)], provenance=newer) == [2]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_overwriting_keeps_the_old_table_until_the_new_one_is_whole(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    _embed(path, [_row(1), _row(2)])
    before = path.read_bytes()
    other = {**PROVENANCE, "pooling": "cls"}
    with EmbeddingTable(path, other, overwrite=True) as table:
        assert table.known_sha256(_row(1)) != "one"
        table.append(_row(1), "one", _vector(1))
    assert path.read_bytes() == before
    # The overwriting run was killed: the same command resumes.
    assert _embed(path, [_row(1), _row(3)], provenance=other, overwrite=True) == [3]
    metadata, _, provenance = read_embeddings(path)
    assert metadata["participant_id"].tolist() == ["sub-01", "sub-03"]
    assert provenance == other


def test_overwriting_discards_a_plain_unfinished_run(tmp_path):
    path = tmp_path / "out.parquet"
    with EmbeddingTable(path, PROVENANCE) as table:
        table.append(_row(1), "one", _vector(1))
    assert _embed(path, [_row(1)], overwrite=True) == [1]


def test_foreign_files_are_not_replaced(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(TableError, match="does not say which encoder"):
        EmbeddingTable(path, PROVENANCE)
    assert _names(tmp_path) == ["out.csv"]
    (tmp_path / "out.json").write_text('{"mine": 1}')
    with pytest.raises(TableError, match=r"out\.json: exists and is not ours"):
        EmbeddingTable(path, PROVENANCE, overwrite=True)
    with pytest.raises(TableError, match="got a folder"):
        EmbeddingTable(tmp_path.rename(tmp_path.with_suffix(".csv")), PROVENANCE)


@pytest.mark.parametrize("column", ["T1w", "input_sha256"])
def test_table_without_a_column_is_not_extended(tmp_path, column):
    path = tmp_path / "out.csv"
    _embed(path, [_row(2), _row(4)])
    pd.read_csv(path).drop(columns=column).to_csv(path, index=False)
    with pytest.raises(TableError, match=rf"out.csv: .* none called {column}\."):
        _embed(path, [_row(2), _row(4)])


def test_table_with_a_repeated_row_is_not_extended(tmp_path):
    path = tmp_path / "out.csv"
    _embed(path, [_row(2), _row(4)])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[-1]]))
    with pytest.raises(TableError, match=r"got /data/sub-04_T1w.nii.gz again"):
        _embed(path, [_row(2), _row(4), _row(6)])


@pytest.mark.parametrize(("first", "second"), [*itertools.permutations(SUFFIXES, 2)])
def test_tables_of_one_name_have_a_json_file_each(tmp_path, first, second):
    paths = [tmp_path / f"out{first}", tmp_path / f"out{second}"]
    origins = [PROVENANCE, {**PROVENANCE, "pooling": "cls", "precision": "bfloat16"}]
    for path, origin in zip(paths, origins, strict=True):
        _embed(path, [_row(1)], provenance=origin)
    for path, origin in zip(paths, origins, strict=True):  # each is resumed
        assert _embed(path, [_row(1), _row(2)], provenance=origin) == [2]
        assert read_embeddings(path)[2] == origin
    files = [*(path.name for path in paths), "out.json", f"out{second}.json"]
    assert _names(tmp_path) == sorted(files)
    contents = [json.loads((tmp_path / name).read_text()) for name in files[2:]]
    assert contents == origins


def test_tables_that_share_a_json_file_are_resumed(tmp_path):
    paths = [tmp_path / name for name in ("out.csv", "out.tsv")]
    for path in paths:
        _embed(path, [_row(1)])
    (tmp_path / "out.tsv.json").unlink()  # as earlier versions wrote them
    for path in paths:
        assert read_embeddings(path)[2] == PROVENANCE
    assert [_embed(path, [_row(1), _row(2)]) for path in paths] == [[2], [2]]
    names = ["out.csv", "out.csv.json", "out.json", "out.tsv"]
    assert _names(tmp_path) == names


def test_no_table_is_written_without_rows(tmp_path):
    assert _embed(tmp_path / "out.parquet", []) == []
    assert _names(tmp_path) == []


def test_second_writer_of_a_table_is_refused(tmp_path):
    path = tmp_path / "out.csv"
    with (
        EmbeddingTable(path, PROVENANCE),
        pytest.raises(TableError, match="another process"),
    ):
        EmbeddingTable(path, PROVENANCE)


def test_failed_write_keeps_the_rows(tmp_path):
    path = tmp_path / "out.csv"
    obstacle = working_path(path) / "table.json"
    obstacle.mkdir(parents=True)
    with pytest.raises(TableError, match=r"Is a directory.*the rows are kept"):
        _embed(path, [_row(1)])
    obstacle.rmdir()
    assert _embed(path, [_row(1)]) == []
    assert len(read_embeddings(path)[0]) == 1


def test_pandas_reads_the_table(tmp_path):
    _embed(tmp_path / "out.parquet", [_row(1), _row(2)])
    frame = pd.read_parquet(tmp_path / "out.parquet")
    vectors = frame.filter(like="emb_").to_numpy(np.float32)
    np.testing.assert_array_equal(vectors, [_vector(1), _vector(2)])


def test_tilde_is_expanded_for_reading(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    _embed(tmp_path / "out.csv", [_row(1)])
    assert len(read_embeddings("~/out.csv")[0]) == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_reading_another_file_names_it(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    with pytest.raises(TableError, match=f"out{suffix}: no such file"):
        read_embeddings(path)
    if suffix == ".parquet":
        pd.DataFrame({"a": [1]}).to_parquet(path)
    else:
        path.write_text("a\n1\n")
    with pytest.raises(TableError, match="expected columns emb"):
        read_embeddings(path)


def test_table_without_its_json_file_is_read(tmp_path):
    _embed(tmp_path / "out.tsv", [_row(1)])
    (tmp_path / "out.json").unlink()
    metadata, embeddings, provenance = read_embeddings(tmp_path / "out.tsv")
    assert metadata.shape == (1, 11)
    assert embeddings.shape == (1, 5)
    assert provenance == {}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_metadata_do_not_replace_reserved_columns(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    names = ["participant_id", "session_id", "image", "T1w", "FLAIR"]
    names += [*ADDED_COLUMNS, "input_sha256"]
    row = _row(1, age="71", emb_000="x", **dict.fromkeys(names[1:], "x"))
    assert _embed(path, [row]) == [1]
    assert _embed(path, [row, _row(2)]) == [2]
    metadata, embeddings, _ = read_embeddings(path)
    assert list(metadata.columns) == [*names, "age"]
    assert metadata["T1w"].tolist() == [row.image, _row(2).image]
    assert metadata["input_sha256"].tolist() == ["one", "one"]
    assert embeddings.shape == (2, 5)


def _drop_new_columns(path):
    """Rewrite a CSV table as versions before `modalities` wrote it."""
    with path.open(newline="") as file:
        header, *lines = csv.reader(file)
    kept = [i for i, n in enumerate(header) if n not in ADDED_COLUMNS]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([[row[i] for i in kept] for row in (header, *lines)])


def test_table_without_the_newer_columns_is_read_and_resumed(tmp_path):
    path = tmp_path / "out.csv"
    _embed(path, [_row(1, age="71"), _row(2)])
    _drop_new_columns(path)
    old, _, _ = read_embeddings(path)
    assert old["modalities"].tolist() == ["T1w+FLAIR", "T1w"]
    assert old[[*ADDED_COLUMNS[1:]]].isna().all(axis=None)
    assert _embed(path, [_row(1, age="71"), _row(2), _row(3)]) == [3]
    metadata, embeddings, _ = read_embeddings(path)
    assert list(metadata.columns) == list(old.columns)
    assert metadata["modalities"].tolist() == ["T1w+FLAIR", "T1w", "T1w+FLAIR"]
    np.testing.assert_array_equal(embeddings, [_vector(i) for i in (1, 2, 3)])
    merge_tables([path], tmp_path / "all.csv")
    _drop_new_columns(path)
    merge_tables([path], tmp_path / "old.csv")
    assert (tmp_path / "old.csv").read_text() == (tmp_path / "all.csv").read_text()


def test_kept_rows_of_other_modalities_are_one_warning(tmp_path, caplog):
    path = tmp_path / "out.csv"
    _embed(path, [_row(1), _row(2), _row(4)])
    assert not caplog.records
    _embed(path, [_row(1), _row(3)])
    (record,) = caplog.records
    assert "2 rows of earlier runs have other modalities (T1w)" in record.getMessage()


def test_mixed_slice_thicknesses_are_one_warning(tmp_path, caplog):
    path = tmp_path / "out.csv"
    with EmbeddingTable(path, PROVENANCE) as table:
        rows = [_row(index) for index in range(3)]
        for row, size in zip(rows, ("1.0x1.0x1.0", "1.0x1.0x5.0", None), strict=True):
            table.append(row, "one", _vector(1), size)
        table.finish(rows)
    (record,) = caplog.records
    expected = "slice thicknesses are mixed: 1.0 mm (1 rows), 5.0 mm (1 rows)"
    assert expected in record.getMessage()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_voxel_size_survives_a_kill_and_a_resumed_run(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    with EmbeddingTable(path, PROVENANCE) as table:
        table.append(_row(1), "one", _vector(1), "1.0x1.0x1.2")
        table.append(_row(2), "one", _vector(2))
    assert _embed(path, [_row(1), _row(2), _row(3)]) == [3]
    assert _embed(path, [_row(4)]) == [4]
    sizes = read_embeddings(path)[0]["qc_voxel_mm"]
    assert sizes.fillna("").tolist() == ["1.0x1.0x1.2", "", "", ""]


QUALITIES = (
    Quality(0.91234, 1432.06, ""),
    Quality(float("nan"), 1099.0, "only centred; small"),
    None,
)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_quality_survives_a_kill_a_resumed_run_and_a_merge(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    with EmbeddingTable(path, PROVENANCE) as table:
        for index, quality in enumerate(QUALITIES):
            table.append(_row(index), "one", _vector(index), "1x1x1", quality)
    assert _embed(path, [_row(index) for index in range(4)]) == [3]
    assert _embed(path, [_row(4)]) == [4]
    merge_tables([path], tmp_path / f"all{suffix}")
    for table in (path, tmp_path / f"all{suffix}"):
        metadata = read_embeddings(table)[0]
        np.testing.assert_array_equal(
            metadata["qc_similarity"], [0.912, np.nan, np.nan, np.nan, np.nan]
        )
        np.testing.assert_array_equal(
            metadata["qc_brain_ml"], [1432.1, 1099.0, np.nan, np.nan, np.nan]
        )
        doubts = metadata["qc_doubt"].tolist()
        # Without doubt is not the same as unknown.
        assert doubts[:2] == ["", "only centred; small"]
        assert metadata["qc_doubt"][2:].isna().all()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("value", [None, 0.5])
def test_quality_is_a_number_whatever_is_known(tmp_path, suffix, value):
    path = tmp_path / f"out{suffix}"
    quality = None if value is None else Quality(value, 1300.0, "")
    with EmbeddingTable(path, PROVENANCE) as table:
        table.append(_row(1), "one", _vector(1), None, quality)
        table.finish([_row(1)])
    metadata = read_embeddings(path)[0]
    assert metadata["qc_similarity"].dtype == metadata["qc_brain_ml"].dtype == float


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_dropped_rows_leave_the_table(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    rows = [_row(index) for index in range(3)]
    with EmbeddingTable(path, PROVENANCE) as table:
        for row, quality in zip(rows, QUALITIES, strict=True):
            table.append(row, "one", _vector(1), None, quality)
        table.finish(rows)
    with EmbeddingTable(path, PROVENANCE) as table:
        assert [table.is_in_doubt(row) for row in rows] == [False, True, False]
        table.drop(rows[1])
        table.finish(rows)
    metadata = read_embeddings(path)[0]
    assert metadata["participant_id"].tolist() == ["sub-00", "sub-02"]
    with EmbeddingTable(path, PROVENANCE) as table:
        for row in rows:
            table.drop(row)
        table.append(rows[0], "two", _vector(2))
        table.finish(rows)
    assert read_embeddings(path)[0]["input_sha256"].tolist() == ["two"]
    with EmbeddingTable(path, PROVENANCE) as table:
        table.drop(rows[0])
        assert table.finish(rows) == 0
    assert _names(tmp_path) == []
