import os

import nibabel as nib
import numpy as np
import pytest

from brainfeat.exceptions import VolumeNotFoundError
from brainfeat.io import known_hash as known_hash_module
from brainfeat.io.hashing import content_hash
from brainfeat.io.known_hash import known_hash


@pytest.fixture(autouse=True)
def reads(monkeypatch):
    """Sources whose content is read."""
    sources = []

    def read(source):
        sources.append(source)
        return content_hash(source)

    monkeypatch.setattr(known_hash_module, "content_hash", read)
    monkeypatch.setattr(known_hash_module, "_HASHES", {})
    return sources


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "scan.nii"
    path.write_bytes(b"one")
    return path


def test_settled_file_is_read_once(path, reads, monkeypatch):
    monkeypatch.setattr(known_hash_module, "_SETTLED_AFTER", -1.0)
    expected = content_hash(path)
    assert [known_hash(path), known_hash(str(path))] == [expected, expected]
    assert len(reads) == 1


def test_file_that_was_just_written_is_not_trusted(path, reads):
    assert known_hash(path) == known_hash(path)
    assert len(reads) == 2


def test_file_overwritten_in_place_with_its_old_dates_is_read_again(path, monkeypatch):
    monkeypatch.setattr(known_hash_module, "_SETTLED_AFTER", -1.0)
    first, before = known_hash(path), path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        path.write_bytes(b"two")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)
    assert known_hash(path) == content_hash(path) != first


def test_header_that_changed_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(known_hash_module, "_SETTLED_AFTER", -1.0)
    for name, affine in (("a.img", np.eye(4)), ("b.img", np.diag([2, 3, 4, 1]))):
        nib.save(nib.Nifti1Pair(np.ones((5, 6, 7), np.int16), affine), tmp_path / name)
    first = known_hash(tmp_path / "a.img")
    (tmp_path / "b.hdr").replace(tmp_path / "a.hdr")
    assert known_hash(tmp_path / "a.img") != first


def test_images_and_missing_files_are_left_to_the_reader(tmp_path):
    image = nib.Nifti1Image(np.ones((2, 3, 4), np.int16), np.eye(4))
    assert known_hash(image) == content_hash(image)
    with pytest.raises(VolumeNotFoundError):
        known_hash(tmp_path / "missing.nii")
