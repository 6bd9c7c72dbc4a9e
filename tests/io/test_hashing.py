import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brainfeat.exceptions import VolumeNotFoundError
from brainfeat.io.hashing import content_hash, hash_images
from brainfeat.io.known_hash import known_hash


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
    assert content_hash(image) == in_memory
    changed = intensities.copy()
    changed[3, 4, 5] += 1
    assert content_hash(nib.Nifti1Image(changed, affine)) != in_memory
    assert content_hash(nib.Nifti1Image(intensities, np.eye(4))) != in_memory


def test_missing_file_has_no_hash(tmp_path):
    with pytest.raises(FileNotFoundError):
        content_hash(tmp_path / "none.nii.gz")


def test_the_hash_of_one_image_is_that_of_its_file(tmp_path):
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
def test_header_and_voxels_in_two_files_both_count(tmp_path, rng, named, changed):
    intensities = rng.integers(-300, 300, (7, 8, 9)).astype(np.int16)
    nib.save(nib.Nifti1Pair(intensities, np.diag([2, 3, 4, 1])), tmp_path / "a.img")
    nib.save(nib.Nifti1Pair(intensities + 1, np.eye(4)), tmp_path / "b.img")
    path = tmp_path / f"a{named}"
    before = content_hash(path), known_hash(path)
    assert before[0] == before[1] == content_hash(tmp_path / "a.img")
    (tmp_path / f"b{changed}").replace(tmp_path / f"a{changed}")
    assert content_hash(path) == known_hash(path) != before[0]
