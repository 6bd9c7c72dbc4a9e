import hashlib
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brainfeat.exceptions import VolumeNotFoundError
from brainfeat.io import hashing
from brainfeat.io.hashing import content_hash, hash_images, known_hash


@pytest.fixture
def reads(monkeypatch):
    """Files that are read."""
    paths = []

    def read(path):
        paths.append(path)
        return compute(path)

    compute = hashing._file_sha256
    monkeypatch.setattr(hashing, "_file_sha256", read)
    return paths


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "scan.nii"
    path.write_bytes(b"one")
    return path


def test_hash_follows_content(tmp_path, rng):
    intensities = rng.integers(-300, 300, (7, 8, 9)).astype(np.int16)
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    image = nib.Nifti1Image(intensities, affine)
    first, second = tmp_path / "a.nii", tmp_path / "b.nii"
    nib.save(image, first)
    nib.save(image, second)
    assert content_hash(first) == content_hash(second)
    in_memory = content_hash(image)
    image.get_fdata()  # fills nibabel's cache: the content stays the same
    assert content_hash(image) == known_hash(image) == in_memory
    changed = intensities.copy()
    changed[3, 4, 5] += 1
    assert content_hash(nib.Nifti1Image(changed, affine)) != in_memory
    assert content_hash(nib.Nifti1Image(intensities, np.eye(4))) != in_memory


def test_missing_file_has_no_hash(tmp_path):
    for compute in (content_hash, known_hash):
        with pytest.raises(VolumeNotFoundError):
            compute(tmp_path / "none.nii.gz")


def test_hash_of_one_image_is_that_of_its_file(tmp_path):
    paths = {name: str(tmp_path / name) for name in ("T1w", "FLAIR")}
    for name, path in paths.items():
        Path(path).write_text(name)
    expected = hashlib.sha256(b"T1w").hexdigest()
    assert hash_images({"T1w": paths["T1w"]}) == expected
    both = hash_images(paths)
    assert both == hash_images(dict(reversed(paths.items())))
    swapped = {"T1w": paths["FLAIR"], "FLAIR": paths["T1w"]}
    assert len({both, expected, hash_images(swapped)}) == 3
    with pytest.raises(VolumeNotFoundError):
        hash_images({"T1w": str(tmp_path / "absent")})


@pytest.mark.parametrize("named", [".img", ".hdr"])
@pytest.mark.parametrize("changed", [".img", ".hdr"])
def test_separate_header_and_voxels_both_count(
    tmp_path, rng, monkeypatch, named, changed
):
    monkeypatch.setattr(hashing, "_SETTLED_AFTER", -1.0)
    intensities = rng.integers(-300, 300, (7, 8, 9)).astype(np.int16)
    nib.save(nib.Nifti1Pair(intensities, np.diag([2, 3, 4, 1])), tmp_path / "a.img")
    nib.save(nib.Nifti1Pair(intensities + 1, np.eye(4)), tmp_path / "b.img")
    path = tmp_path / f"a{named}"
    before = content_hash(path), known_hash(path)
    assert before[0] == before[1] == content_hash(tmp_path / "a.img")
    (tmp_path / f"b{changed}").replace(tmp_path / f"a{changed}")
    assert content_hash(path) == known_hash(path) != before[0]


def test_settled_file_is_read_once(path, reads, monkeypatch):
    monkeypatch.setattr(hashing, "_SETTLED_AFTER", -1.0)
    expected = hashlib.sha256(b"one").hexdigest()
    assert [known_hash(path), known_hash(str(path))] == [expected, expected]
    assert hash_images({"T1w": str(path)}) == expected
    assert len(reads) == 1


def test_newly_written_file_is_read_again(path, reads):
    assert known_hash(path) == known_hash(path)
    assert len(reads) == 2


def test_file_overwritten_in_place_with_its_old_dates_is_read_again(path, monkeypatch):
    monkeypatch.setattr(hashing, "_SETTLED_AFTER", -1.0)
    first, before = known_hash(path), path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        path.write_bytes(b"two")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)
    assert known_hash(path) == content_hash(path) != first
