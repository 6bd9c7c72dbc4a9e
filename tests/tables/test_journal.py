import json

import numpy as np
import pytest

from brainfeat.exceptions import TableError
from brainfeat.io.locks import FolderBusyError
from brainfeat.tables.journal import RowJournal


def _fill(folder, n_rows, *, n_features=7):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(n_rows, n_features)).astype(np.float32)
    journal = RowJournal(folder, n_features)
    journal.begin({"made": "today"}, discard=False)
    for index, vector in enumerate(vectors):
        journal.append(f"key {index}", f"sha {index}", vector)
    journal.close(remove=False)
    return vectors


def test_rows_survive_closing_and_opening(tmp_path):
    vectors = _fill(tmp_path, 5)
    with RowJournal(tmp_path, 7) as journal:
        assert journal.header == {"made": "today"}
        journal.begin(journal.header, discard=False)
        assert list(journal.entries) == [f"key {index}" for index in range(5)]
        for index, entry in enumerate(journal.entries.values()):
            assert entry.input_sha256 == f"sha {index}"
            np.testing.assert_array_equal(journal.read(entry.position), vectors[index])


@pytest.mark.parametrize("name", ["rows.jsonl", "vectors.f32"])
@pytest.mark.parametrize("lost", [1, 5, 20, 27, 40])
def test_a_torn_tail_costs_only_the_rows_it_touches(tmp_path, name, lost):
    vectors = _fill(tmp_path, 4)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-lost])
    with RowJournal(tmp_path, 7) as journal:
        journal.begin({}, discard=False)
        assert len(journal.entries) in {2, 3}
        journal.append("key 9", "sha 9", vectors[0])
    with RowJournal(tmp_path, 7) as journal:
        journal.begin({}, discard=False)
        assert "key 9" in journal.entries
        for key, entry in journal.entries.items():
            expected = vectors[0 if key == "key 9" else int(key[-1])]
            np.testing.assert_array_equal(journal.read(entry.position), expected)


def test_a_damaged_vector_is_not_believed(tmp_path):
    _fill(tmp_path, 4)
    path = tmp_path / "vectors.f32"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with RowJournal(tmp_path, 7) as journal:
        journal.begin({}, discard=False)
        assert len(journal.entries) == 3


def test_the_last_row_of_a_key_counts(tmp_path):
    _fill(tmp_path, 2)
    with RowJournal(tmp_path, 7) as journal:
        journal.begin({}, discard=False)
        journal.append("key 0", "changed", np.ones(7, np.float32))
    with RowJournal(tmp_path, 7) as journal:
        journal.begin({}, discard=False)
        assert journal.entries["key 0"].input_sha256 == "changed"
        assert journal.read(journal.entries["key 0"].position).tolist() == [1.0] * 7


def test_discarding_starts_empty(tmp_path):
    _fill(tmp_path, 2)
    with RowJournal(tmp_path, 3) as journal:
        journal.begin({"made": "anew"}, discard=True)
        assert journal.entries == {}
        journal.append("key", "sha", np.zeros(3, np.float32))
    assert json.loads((tmp_path / "header.json").read_text()) == {"made": "anew"}


def test_two_writers_are_refused(tmp_path):
    busy = pytest.raises(FolderBusyError, match="another process")
    with RowJournal(tmp_path, 7), busy:
        RowJournal(tmp_path, 7)
    RowJournal(tmp_path, 7).close(remove=True)
    assert not tmp_path.exists()


def test_a_vector_of_another_length_is_refused(tmp_path):
    with RowJournal(tmp_path, 7) as journal:
        journal.begin({}, discard=False)
        with pytest.raises(TableError, match="7 features"):
            journal.append("key", "sha", np.zeros(6, np.float32))


def test_appending_needs_a_beginning(tmp_path):
    with (
        RowJournal(tmp_path, 7) as journal,
        pytest.raises(TableError, match="not open"),
    ):
        journal.append("key", "sha", np.zeros(7, np.float32))
