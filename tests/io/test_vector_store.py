import logging
import multiprocessing
import os

import numpy as np
import pytest

from brainfeat.io.vector_store import VectorStore

KEY = "c0ffee"


@pytest.fixture
def store(tmp_path):
    return VectorStore(tmp_path / "vectors")


@pytest.fixture
def vector(rng):
    return rng.normal(size=7).astype(np.float32)


def stored_file(store):
    (path,) = store.folder.rglob("*.npy")
    return path


def test_vector_and_note_survive_saving_and_loading(store, vector):
    assert store.is_empty()
    assert store.load(KEY) is None
    store.save(KEY, vector, "ä note")
    assert not store.is_empty()
    loaded = store.load(KEY)
    np.testing.assert_array_equal(loaded.vector, vector)
    assert loaded.note == "ä note"
    assert loaded.vector.dtype == np.float32
    assert store.load("c0ffef") is None
    store.clear()
    assert store.load(KEY) is None
    store.clear()


def test_last_vector_of_a_key_is_loaded(store, vector):
    store.save(KEY, vector, "first")
    store.save(KEY, vector + 1, "second")
    assert store.load(KEY).note == "second"
    np.testing.assert_array_equal(store.load(KEY).vector, vector + 1)


def test_every_truncation_and_flipped_bit_of_the_content_is_detected(
    store, vector, caplog
):
    store.save(KEY, vector, "note")
    path = stored_file(store)
    content = path.read_bytes()
    start = len(content) - 7 * 4 - len("note") - 4
    for size in [*range(start + 7 * 4), *range(start + 7 * 4 + 1, len(content))]:
        path.write_bytes(content[:size])
        assert store.load(KEY) is None
    for position in range(start, len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        assert store.load(KEY) is None
    assert "damaged, computed again (wrong checksum)" in caplog.text
    path.write_bytes(content)
    np.testing.assert_array_equal(store.load(KEY).vector, vector)


def test_numpy_reads_a_stored_vector(store, vector):
    store.save(KEY, vector, "note")
    np.testing.assert_array_equal(np.load(stored_file(store)), vector)


def test_vector_without_checksum_of_an_earlier_version_is_loaded(store, vector):
    store.save(KEY, vector + 1, "note")
    np.save(stored_file(store), vector)
    loaded = store.load(KEY)
    np.testing.assert_array_equal(loaded.vector, vector)
    assert loaded.note == ""


def test_pickles_are_not_opened(store, vector, caplog):
    store.save(KEY, vector)
    np.save(stored_file(store), np.array([print], dtype=object), allow_pickle=True)
    with caplog.at_level(logging.WARNING):
        assert store.load(KEY) is None
    assert "damaged" in caplog.text


def _save_until_killed(folder, n_rounds):
    store = VectorStore(folder)
    for round_ in range(n_rounds):
        for key in range(16):
            store.save(f"{key:02x}", np.full(64, round_, np.float32), str(round_))
    os._exit(1)


def test_readers_see_whole_vectors_while_two_processes_write(tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=_save_until_killed, args=(tmp_path, 40))
        for _ in range(2)
    ]
    for writer in writers:
        writer.start()
    store, n_read = VectorStore(tmp_path), 0
    while any(writer.is_alive() for writer in writers):
        for key in range(16):
            if (loaded := store.load(f"{key:02x}")) is not None:
                n_read += 1
                assert set(loaded.vector.tolist()) == {float(loaded.note)}
    for writer in writers:
        writer.join()
    assert n_read
