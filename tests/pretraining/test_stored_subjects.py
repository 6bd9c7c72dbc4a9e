"""A store knows its arrays without reading the images again."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from brainfeat import Geometry, Preprocessor, Volume, write_volume
from brainfeat.pretraining import acquisitions
from brainfeat.pretraining.store_writer import write_store
from brainfeat.subjects.subject import Subject

PREPROCESSOR = Preprocessor(shape=(16, 24, 20), spacing=8.0, alignment="none")


@pytest.fixture
def subject(tmp_path):
    """A ball of noise, of an hour ago."""
    grid = np.indices((18, 22, 20)) - np.array([9, 11, 10])[:, None, None, None]
    ball = np.linalg.norm(grid, axis=0) < 8
    noise = np.random.default_rng(0).random(ball.shape, dtype=np.float32)
    geometry = Geometry(ball.shape, np.diag([7.0, 7.0, 7.0, 1.0]))
    path = write_volume(Volume(ball * (1 + noise), geometry), tmp_path / "T1w.nii")
    move_back(path, hours=1)
    return Subject("first", {"T1w": str(path)})


def move_back(path, hours):
    time = Path(path).stat().st_mtime - 3600 * hours
    os.utime(path, (time, time))


@pytest.fixture
def hashed(monkeypatch):
    """Paths of images that were read to be hashed."""
    paths, original = [], acquisitions.content_hash
    monkeypatch.setattr(
        acquisitions, "content_hash", lambda p: paths.append(p) or original(p)
    )
    return paths


def test_unchanged_images_are_not_read_again(subject, hashed, tmp_path):
    def write(subjects):
        before = len(hashed)
        store, failed = write_store(
            subjects, tmp_path / "store", PREPROCESSOR, modalities=("T1w",)
        )
        assert not failed
        return store, len(hashed) - before

    first, n_read = write([subject])
    assert n_read == 1
    renamed = replace(subject, participant_id="second")
    again, n_read = write([renamed])
    assert n_read == 0
    assert [*again.subjects] == ["second"]
    assert again.index.scans[0].file == first.index.scans[0].file
    (again.folder / first.index.scans[0].file).unlink()
    assert write([subject])[1] == 1
    move_back(subject.images["T1w"], hours=1)
    assert write([subject])[1] == 1
    assert write([subject])[1] == 0


def test_other_settings_of_a_store_are_not_mixed_up(subject, hashed, tmp_path):
    other = replace(PREPROCESSOR, spacing=9.0)
    for preprocessor in (PREPROCESSOR, other, PREPROCESSOR):
        store, _ = write_store(
            [subject], tmp_path / "store", preprocessor, modalities=("T1w",)
        )
        assert store.preprocessing == preprocessor.to_dict()
    assert len(hashed) == 2


def test_an_image_that_was_just_written_is_read_again(subject, hashed, tmp_path):
    os.utime(subject.images["T1w"])
    for _ in range(2):
        write_store([subject], tmp_path / "s", PREPROCESSOR, modalities=("T1w",))
        os.utime(subject.images["T1w"])
    assert len(hashed) == 2


def test_a_record_that_a_crash_cut_off_is_ignored(subject, hashed, tmp_path):
    options = {"modalities": ("T1w",)}
    store, _ = write_store([subject], tmp_path / "s", PREPROCESSOR, **options)
    (record,) = store.folder.glob("subjects-*.jsonl")
    record.write_text(record.read_text() + '{"key": "abc", "sc')
    write_store([subject], tmp_path / "s", PREPROCESSOR, **options)
    assert len(hashed) == 1
    record.write_text('{"key": "abc", "sc')
    write_store([subject], tmp_path / "s", PREPROCESSOR, **options)
    assert len(hashed) == 2
