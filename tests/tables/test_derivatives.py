import errno
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from brainfeat.exceptions import InputError, TableError
from brainfeat.io.locks import FolderBusyError, lock_folder
from brainfeat.preprocessing.quality import Quality
from brainfeat.subjects.bids.filter import BidsSelection
from brainfeat.subjects.subject import Subject
from brainfeat.tables.derivatives import DerivativesFolder
from brainfeat.tables.embedding_table import read_embeddings
from brainfeat.tables.group_table import write_group_table

PROVENANCE = {
    "checkpoint_sha256": "c0ffee",
    "preprocessing_sha256": "facade",
    "pooling": "mean",
    "modalities": ["T1w", "FLAIR"],
    "n_features": 5,
    "precision": "float32",
}


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    (folder / "sub-01").mkdir(parents=True)
    (folder / "participants.tsv").write_text("participant_id\tage\nsub-01\t71\n")
    sessions = "session_id\tscore\nses-1\t5\nses-2\tn/a\n"
    (folder / "sub-01" / "sub-01_sessions.tsv").write_text(sessions)
    return folder


def _row(raw, participant, session=None, run=None):
    labels = [name for name in (participant, session) if name]
    return Subject(
        participant_id=participant,
        session_id=session,
        images={"T1w": str(raw.joinpath(*labels, "anat", "_".join([*labels, "T1w"])))},
        metadata={} if run is None else {"run": run},
    )


def _write(output, raw, rows, *, overwrite=False, **provenance):
    done = []
    with DerivativesFolder(
        output, raw, {**PROVENANCE, **provenance}, overwrite=overwrite
    ) as folder:
        for index, row in enumerate(rows):
            if folder.known_sha256(row) != "sha":
                folder.append(row, "sha", np.full(5, index, np.float32))
                done.append(index)
        folder.finish(rows)
    return done


def test_group_of_two_precisions_causes_a_warning(raw, tmp_path, caplog):
    rows = [_row(raw, f"sub-0{number}") for number in (1, 2, 3)]
    for row, precision in zip(rows, ("float32", "bfloat16", "bfloat16"), strict=True):
        _write(tmp_path / "out", raw, [row], precision=precision)
    target, _ = write_group_table(tmp_path / "out", raw)
    (message,) = caplog.messages
    assert "rows of bfloat16 join rows of float32" in message
    assert read_embeddings(target)[2]["precision"] == "bfloat16, float32"


def test_each_session_and_run_has_a_table_that_names_its_sources(raw, tmp_path):
    rows = [_row(raw, "sub-01", "ses-1", "2"), _row(raw, "sub-02")]
    output = tmp_path / "out"
    assert _write(output, raw, rows) == [0, 1]
    files = sorted(
        path.relative_to(output).as_posix()
        for path in output.rglob("*")
        if path.is_file()
    )
    stem = "sub-01/ses-1/anat/sub-01_ses-1_run-2_desc-brainfound_embedding"
    assert files == [
        *(".bidsignore", "README.md", "dataset_description.json"),
        *(f"{stem}.json", f"{stem}.parquet"),
        "sub-02/anat/sub-02_desc-brainfound_embedding.json",
        "sub-02/anat/sub-02_desc-brainfound_embedding.parquet",
    ]
    sidecar = json.loads((output / f"{stem}.json").read_text())
    assert sidecar["Sources"] == ["bids:raw:sub-01/ses-1/anat/sub-01_ses-1_T1w"]
    assert sidecar["checkpoint_sha256"] == "c0ffee"
    description = json.loads((output / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["DatasetLinks"] == {"raw": raw.as_uri()}
    _, embeddings, provenance = read_embeddings(output / f"{stem}.parquet")
    assert embeddings.tolist() == [[0.0] * 5]
    assert provenance == PROVENANCE


def test_finished_rows_are_known_unless_overwritten(raw, tmp_path):
    rows = [_row(raw, "sub-01"), _row(raw, "sub-02")]
    _write(tmp_path / "out", raw, rows[:1])
    assert _write(tmp_path / "out", raw, rows) == [1]
    assert _write(tmp_path / "out", raw, rows) == []
    assert _write(tmp_path / "out", raw, rows, overwrite=True) == [0, 1]


@pytest.mark.parametrize("session", [None, "ses-1"])
def test_tables_of_runs_supersede_that_of_their_session(raw, tmp_path, session):
    output = tmp_path / "out"
    others = [_row(raw, "sub-01", "ses-2"), _row(raw, "sub-02", session)]
    once = [_row(raw, "sub-01", session)]
    twice = [_row(raw, "sub-01", session, run) for run in ("1", "2")]
    _write(output, raw, others)
    for rows in (once, twice):
        _write(output, raw, rows)
        with DerivativesFolder(output, raw, PROVENANCE) as folder:
            expected = {folder.path_of(row).with_suffix("") for row in rows + others}
        assert {p.with_suffix("") for p in output.glob("sub-*/**/*.*")} == expected
        assert write_group_table(output, raw)[1] == len(rows) + len(others)


def test_table_of_a_session_supersedes_the_run_of_the_same_images_only(raw, tmp_path):
    output = tmp_path / "out"
    with DerivativesFolder(output, raw, PROVENANCE) as folder:
        runs = [_row(raw, "sub-01", None, run) for run in ("1", "2")]
        for row in runs:
            folder.append(row, f"sha of {row.metadata['run']}", np.zeros(5, np.float32))
        only = _row(raw, "sub-01")
        folder.append(only, "sha of 1", np.zeros(5, np.float32))
        assert folder.finish([only]) == 1
        kept = {folder.path_of(row) for row in (only, runs[1])}
    assert {*output.rglob("*.parquet")} == kept


def test_session_keeps_its_table_until_a_run_is_done(raw, tmp_path):
    output = tmp_path / "out"
    _write(output, raw, [_row(raw, "sub-01")])
    with DerivativesFolder(output, raw, PROVENANCE) as folder:
        assert folder.finish([_row(raw, "sub-01", None, "1")]) == 0
    assert write_group_table(output, raw)[1] == 1


def test_table_without_its_sidecar_is_embedded_again(raw, tmp_path):
    rows = [_row(raw, "sub-01")]
    _write(tmp_path / "out", raw, rows)
    next((tmp_path / "out").rglob("*_embedding.json")).unlink()
    assert _write(tmp_path / "out", raw, rows) == [0]


def test_table_without_provenance_is_named(raw, tmp_path):
    _write(tmp_path / "out", raw, [_row(raw, "sub-01"), _row(raw, "sub-02")])
    first = min((tmp_path / "out").rglob("*.parquet"))
    pq.write_table(pq.read_table(first).replace_schema_metadata(None), first)
    with pytest.raises(TableError) as caught:
        write_group_table(tmp_path / "out", raw)
    message = (
        f"{first}: does not say which encoder made it; remove it, and run the level"
    )
    assert str(caught.value) == f"{message} participant again."
    first.unlink()
    assert _write(tmp_path / "out", raw, [_row(raw, "sub-01")]) == [0]
    assert write_group_table(tmp_path / "out", raw)[1] == 2


def test_two_processes_write_to_one_folder_and_clean_up(raw, tmp_path):
    row, output = _row(raw, "sub-01"), tmp_path / "out"
    # Left by killed processes, one of which ran beside others.
    stale, far = output / ".working-0", output / ".working-3"
    for folder in (stale, far):
        folder.mkdir(parents=True)
        (folder / "embedding.parquet").write_text("cut short")
    with (
        DerivativesFolder(output, raw, PROVENANCE) as first,
        DerivativesFolder(output, raw, PROVENANCE) as second,
    ):
        assert first.working_folder == stale
        assert second.working_folder != stale
        assert not far.exists()
        first.append(row, "sha", np.zeros(5, np.float32))
        assert second.known_sha256(row) == "sha"
    assert not [path for path in output.iterdir() if path.name.startswith(".w")]


def test_released_working_folder_may_be_locked_at_once(raw, tmp_path, monkeypatch):
    remove, locks = Path.rmdir, []

    def lock_and_remove(path):
        locks.append(lock_folder(path))
        remove(path)

    monkeypatch.setattr(Path, "rmdir", lock_and_remove)
    output = tmp_path / "out"
    _write(output, raw, [_row(raw, "sub-01")])
    assert write_group_table(output, raw)[1] == 1
    assert [Path(lock.lock_file).parent.name for lock in locks] == [
        ".working-0",
        ".working-1",
    ]
    for lock in locks:
        lock.release()


def test_next_working_folder_is_used_if_one_is_busy(raw, tmp_path, monkeypatch):
    def lock(folder):
        if folder.name == ".working-0":
            raise FolderBusyError(str(folder))
        return lock_folder(folder)

    monkeypatch.setattr("brainfeat.tables.derivatives.lock_folder", lock)
    with DerivativesFolder(tmp_path / "out", raw, PROVENANCE) as folder:
        assert folder.working_folder.name == ".working-1"


@pytest.mark.skipif(sys.platform == "win32", reason="has no flock")
def test_file_system_without_locks_is_reported(raw, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(TableError, match="cannot be locked"):
        DerivativesFolder(tmp_path / "out", raw, PROVENANCE)


def test_columns_of_participants_do_not_replace_reserved_ones(raw, tmp_path):
    columns = ["run", "session_id", "image", "input_sha256", "T1w", "emb_000", "age"]
    header = "\t".join(["participant_id", *columns])
    line = "\t".join(["sub-01", *["7"] * len(columns)])
    (raw / "participants.tsv").write_text(f"{header}\n{line}\n")
    row = _row(raw, "sub-01", "ses-1")
    _write(tmp_path / "out", raw, [row])
    metadata, embeddings, _ = read_embeddings(
        write_group_table(tmp_path / "out", raw)[0]
    )
    assert metadata["age"].tolist() == [7]
    assert metadata["T1w"].tolist() == metadata["image"].tolist() == [row.image]
    assert metadata["session_id"].tolist() == ["ses-1"]
    assert metadata["input_sha256"].tolist() == ["sha"]
    assert metadata["run"].isna().all()
    assert embeddings.shape == (1, 5)


def test_participants_without_an_embedding_cause_a_warning(raw, tmp_path, caplog):
    (raw / "sub-03").mkdir()
    (raw / "sub-04.zip").touch()
    _write(tmp_path / "out", raw, [_row(raw, "sub-01")])
    write_group_table(tmp_path / "out", raw)
    n_all = len([*raw.glob("sub-*/")])
    message = f"no embedding of {n_all - 1} of {n_all} participants, such as"
    assert message in caplog.text
    caplog.clear()
    only = BidsSelection(participants=("01",))
    write_group_table(tmp_path / "out", raw, only)
    assert not caplog.records


def test_group_is_joined_with_participants_and_sessions(raw, tmp_path):
    rows = [_row(raw, "sub-01", "ses-1"), _row(raw, "sub-01", "ses-2")]
    rows.append(_row(raw, "sub-02"))
    _write(tmp_path / "out", raw, rows)
    path, n_rows = write_group_table(tmp_path / "out", raw)
    assert n_rows == 3
    metadata, embeddings, provenance = read_embeddings(path)
    assert metadata["participant_id"].tolist() == ["sub-01", "sub-01", "sub-02"]
    assert metadata["age"].tolist()[:2] == [71, 71]
    assert metadata["score"].tolist()[0] == 5
    assert metadata["score"].isna().tolist() == [False, True, True]
    assert embeddings[:, 0].tolist() == [0.0, 1.0, 2.0]
    assert provenance == PROVENANCE
    selection = BidsSelection(participants=("02",))
    assert write_group_table(tmp_path / "out", raw, selection)[1] == 1
    path, n_rows = write_group_table(
        tmp_path / "out", raw, BidsSelection(sessions=("2", "ses-3"))
    )
    assert n_rows == 1
    assert read_embeddings(path)[0]["session_id"].tolist() == ["ses-2"]
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith(".w")]


def test_encoders_are_not_mixed(raw, tmp_path):
    rows = [_row(raw, "sub-01"), _row(raw, "sub-02")]
    _write(tmp_path / "out", raw, rows[:1])
    with pytest.raises(TableError, match=r"sub-01.*another pooling.*--overwrite"):
        _write(tmp_path / "out", raw, rows, pooling="cls")
    _write(tmp_path / "out", raw, rows[1:], pooling="cls")
    with pytest.raises(TableError, match=r"sub-02.*another pooling"):
        write_group_table(tmp_path / "out", raw)


def test_raw_data_and_foreign_folders_are_not_written_to(raw, tmp_path):
    for name in (".", "sub-01", "out"):
        with pytest.raises(InputError, match="lies in the raw dataset"):
            DerivativesFolder(raw / name, raw, PROVENANCE)
    _write(raw / "derivatives" / "brainfeat", raw, [_row(raw, "sub-01")])
    (tmp_path / "dataset_description.json").write_text('{"Name": "fMRIPrep"}')
    with pytest.raises(InputError, match="holds another dataset"):
        DerivativesFolder(tmp_path, raw, PROVENANCE)
    with pytest.raises(InputError, match="expected embeddings of participants"):
        write_group_table(tmp_path / "empty", raw)


def test_group_refuses_unknown_all(raw, tmp_path):
    _write(tmp_path / "out", raw, [_row(raw, "sub-01"), _row(raw, "sub-02")])
    selection = BidsSelection(participants=("01", "3"))
    with pytest.raises(InputError, match=r"raw: there is no sub-3\."):
        write_group_table(tmp_path / "out", raw, selection)
    with pytest.raises(InputError, match=r"row: no such folder"):
        write_group_table(tmp_path / "out", tmp_path / "row")


def test_labels_with_underscores_are_selected(raw, tmp_path):
    rows = [_row(raw, "sub-002_S_0295", "ses-m_06"), _row(raw, "sub-01", "ses-m")]
    _write(tmp_path / "out", raw, rows)
    assert write_group_table(tmp_path / "out", raw)[1] == 2
    chosen = BidsSelection(participants=("002_S_0295",), sessions=("m_06",))
    path, n_rows = write_group_table(tmp_path / "out", raw, chosen)
    assert n_rows == 1
    assert read_embeddings(path)[0]["session_id"].tolist() == ["ses-m_06"]


def test_group_table_that_cannot_be_written_is_named(raw, tmp_path):
    output = tmp_path / "out"
    _write(output, raw, [_row(raw, "sub-01")])
    target = output / "group_desc-brainfound_embedding.parquet"
    target.mkdir()
    with pytest.raises(TableError) as caught:
        write_group_table(output, raw)
    assert str(caught.value) == f"{target}: cannot be written (Is a directory)."


def test_quality_is_in_the_tables_and_the_group(raw, tmp_path):
    output = tmp_path / "out"
    rows = [_row(raw, f"sub-0{number}") for number in (1, 2, 3)]
    found = (Quality(0.9, 1400.04, ""), Quality(float("nan"), 300.0, "small"), None)
    with DerivativesFolder(output, raw, PROVENANCE) as folder:
        for row, quality in zip(rows, found, strict=True):
            folder.append(row, "sha", np.zeros(5, np.float32), "1x1x1", quality)
        folder.finish(rows)
        assert [folder.is_in_doubt(row) for row in rows] == [False, True, False]
    group = read_embeddings(write_group_table(output, raw)[0])[0]
    np.testing.assert_array_equal(group["qc_similarity"], [0.9, np.nan, np.nan])
    np.testing.assert_array_equal(group["qc_brain_ml"], [1400.0, 300.0, np.nan])
    assert group["qc_doubt"].tolist()[:2] == ["", "small"]
    assert group["qc_doubt"].isna().tolist() == [False, False, True]
    with DerivativesFolder(output, raw, PROVENANCE) as folder:
        folder.drop(rows[1])
        assert folder.known_sha256(rows[1]) is None
        assert folder.finish(rows) == 2
    assert write_group_table(output, raw)[1] == 2
