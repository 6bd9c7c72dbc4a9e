import logging

import joblib
import numpy as np
import pytest

from brainfeat.embedding.cache import EmbeddingCache, embedding_key
from brainfeat.exceptions import ConfigError

KEY = embedding_key({"input": "a"})


@pytest.fixture
def cache(tmp_path):
    return EmbeddingCache(tmp_path / "kept")


@pytest.fixture
def vector(rng):
    return rng.normal(size=7).astype(np.float32)


def entry(tmp_path):
    (path,) = tmp_path.rglob("*.npy")
    return path


def test_embedding_survives_store_and_load(cache, vector):
    assert cache.load(KEY, 7) is None
    cache.store(KEY, vector, "1.0x1.0x1.2")
    np.testing.assert_array_equal(cache.load(KEY, 7).vector, vector)
    assert cache.load(KEY, 7).note == "1.0x1.0x1.2"
    assert cache.load(embedding_key({"input": "b"}), 7) is None


def test_key_depends_on_every_part():
    parts = {"input": {"T1w": "a", "T2w": None}, "pooling": "mean", "batch": 3}
    keys = {embedding_key(parts)}
    for change in ({"input": {"T1w": "b"}}, {"pooling": "cls"}, {"batch": 4}):
        keys.add(embedding_key({**parts, **change}))
    assert len(keys) == 4


@pytest.mark.parametrize(
    "content",
    [b"", b"\x93NUMPY", b"PK\x03\x04", b"text"],
    ids=["empty", "cut", "zip", "text"],
)
def test_damaged_embedding_is_computed_again(cache, vector, tmp_path, content, caplog):
    cache.store(KEY, vector)
    entry(tmp_path).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert cache.load(KEY, 7) is None
    assert "damaged" in caplog.text
    cache.store(KEY, vector)
    np.testing.assert_array_equal(cache.load(KEY, 7).vector, vector)


@pytest.mark.parametrize(
    "other",
    [np.zeros(6, np.float32), np.zeros(7), np.full(7, np.nan, np.float32)],
    ids=["length", "dtype", "nan"],
)
def test_embedding_of_another_kind_is_not_loaded(cache, other):
    cache.store(KEY, other)
    assert cache.load(KEY, 7) is None


def test_unwritable_folder_only_causes_a_warning(tmp_path, vector, caplog):
    (tmp_path / "file").touch()
    folder = EmbeddingCache(tmp_path / "file")
    assert folder.load(KEY, 7) is None
    assert not caplog.messages  # nothing is damaged
    with caplog.at_level(logging.WARNING):
        folder.store(KEY, vector)
    assert "embedding not kept" in caplog.text
    assert "Errno" not in caplog.text


def test_memory_names_the_folder(tmp_path, vector):
    for memory in (str(tmp_path), tmp_path, joblib.Memory(tmp_path, verbose=0)):
        cache = EmbeddingCache.from_memory(memory)
        cache.store(KEY, vector)
        assert entry(tmp_path).is_relative_to(tmp_path / "brainfeat")
        entry(tmp_path).unlink()


def test_no_memory_is_no_cache():
    assert EmbeddingCache.from_memory(None) is None
    assert EmbeddingCache.from_memory(joblib.Memory(None)) is None


def test_other_memory_is_refused():
    with pytest.raises(ConfigError, match="memory: expected None, a folder"):
        EmbeddingCache.from_memory(3)
