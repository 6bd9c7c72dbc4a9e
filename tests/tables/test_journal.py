import multiprocessing
import os
import signal
from contextlib import contextmanager

import numpy as np
import pytest

from brainfeat.exceptions import TableError
from brainfeat.io.locks import FolderBusyError
from brainfeat.io.vector_store import VectorStore
from brainfeat.preprocessing.quality import Quality
from brainfeat.tables.journal import RowJournal


@contextmanager
def _opened(folder, n_features):
    journal = RowJournal(folder, n_features)
    try:
        yield journal
    finally:
        journal.close(remove=False)


def _fill(folder, n_rows, *, n_features=7):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(n_rows, n_features)).astype(np.float32)
    with _opened(folder, n_features) as journal:
        journal.begin({"made": "today"}, discard=False)
        for index, vector in enumerate(vectors):
            journal.append(f"key {index}", f"sha {index}", vector)
    return vectors


def test_rows_survive_closing_and_opening(tmp_path):
    vectors = _fill(tmp_path, 5)
    with _opened(tmp_path, 7) as journal:
        assert journal.header == {"made": "today"}
        assert journal.has_rows
        journal.begin(journal.header, discard=False)
        for index, vector in enumerate(vectors):
            assert journal.input_sha256(f"key {index}") == f"sha {index}"
            np.testing.assert_array_equal(journal.read(f"key {index}"), vector)
        assert journal.input_sha256("key 5") is None


def test_damaged_row_is_unknown_and_can_be_written_again(tmp_path, caplog):
    vectors = _fill(tmp_path, 4)
    for path in (tmp_path / "rows").rglob("*.npy"):
        if path.read_bytes().find(b"sha 2") > 0:
            path.write_bytes(path.read_bytes()[:-5])
    with _opened(tmp_path, 7) as journal:
        journal.begin({}, discard=False)
        known = [journal.input_sha256(f"key {index}") for index in range(4)]
        assert known == ["sha 0", "sha 1", None, "sha 3"]
        journal.append("key 2", "again", vectors[2])
        assert journal.input_sha256("key 2") == "again"
        np.testing.assert_array_equal(journal.read("key 2"), vectors[2])
    assert "damaged" in caplog.text


def test_last_row_of_a_key_counts(tmp_path):
    _fill(tmp_path, 2)
    with _opened(tmp_path, 7) as journal:
        journal.begin({}, discard=False)
        journal.append("key 0", "changed", np.ones(7, np.float32))
    with _opened(tmp_path, 7) as journal:
        assert journal.input_sha256("key 0") == "changed"
        assert journal.read("key 0").tolist() == [1.0] * 7


def test_discarding_starts_empty(tmp_path):
    _fill(tmp_path, 2)
    with _opened(tmp_path, 3) as journal:
        journal.begin({"made": "anew"}, discard=True)
        assert not journal.has_rows
        assert journal.input_sha256("key 0") is None
        journal.append("key", "sha", np.zeros(3, np.float32))
    with _opened(tmp_path, 3) as journal:
        assert journal.header == {"made": "anew"}
        assert journal.input_sha256("key") == "sha"


def test_second_writer_is_refused(tmp_path):
    busy = pytest.raises(FolderBusyError, match="another process")
    with _opened(tmp_path, 7), busy:
        RowJournal(tmp_path, 7)
    RowJournal(tmp_path, 7).close(remove=True)
    assert not tmp_path.exists()


def test_removal_leaves_nothing(tmp_path):
    folder = tmp_path / "work"
    _fill(folder, 3)
    journal = RowJournal(folder, 7)
    journal.close(remove=True)
    journal.close(remove=True)
    assert list(tmp_path.iterdir()) == []


def test_vector_of_another_length_is_refused(tmp_path):
    with _opened(tmp_path, 7) as journal:
        journal.begin({}, discard=False)
        with pytest.raises(TableError, match="7 features"):
            journal.append("key", "sha", np.zeros(6, np.float32))


def _append_and_die(folder, n_rows):
    journal = RowJournal(folder, 7)
    journal.begin({}, discard=False)
    for index in range(n_rows):
        journal.append(f"key {index}", "sha", np.full(7, index, np.float32))
    os.kill(os.getpid(), signal.SIGKILL)


def test_appended_rows_survive_a_kill(tmp_path):
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_append_and_die, args=(tmp_path, 20))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with _opened(tmp_path, 7) as journal:
        for index in range(20):
            assert journal.input_sha256(f"key {index}") == "sha"
            assert set(journal.read(f"key {index}").tolist()) == {index}


def test_notes_of_earlier_versions_are_read(tmp_path):
    vector = np.ones(7, np.float32)
    with _opened(tmp_path, 7) as journal:
        journal.begin({}, discard=False)
        for key, quality in (("old", None), ("new", Quality(0.5, 1200.5, "a; b"))):
            journal.append(key, f"sha of {key}", vector, "1x2x3", quality)
    store = VectorStore(tmp_path / "rows")
    (old,) = [p for p in store.folder.rglob("*.npy") if b"sha of old" in p.read_bytes()]
    for note, size in (("sha of old", None), ("sha of old\t1x2x3", "1x2x3")):
        store.save(old.stem, vector, note)
        with _opened(tmp_path, 7) as journal:
            assert journal.input_sha256("old") == "sha of old"
            assert journal.voxel_mm("old") == size
            assert journal.quality("old") is None
            assert journal.voxel_mm("new") == "1x2x3"
            assert journal.quality("new") == (0.5, 1200.5, "a; b")
