from pathlib import Path

import pytest

from brainfeat.io.image_names import has_image_suffix, image_stem


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        *(("a.nii.gz", "a"), ("A.NII.GZ", "A"), ("a.b.Mgz", "a.b")),
        *(("a.json", "a.json"), ("a.nii.txt", "a.nii.txt"), (".nii", ".nii")),
    ],
)
def test_suffixes_of_images_are_told_from_others(name, stem):
    assert image_stem(Path("x.nii", name)) == stem
    assert has_image_suffix(name) == (stem != name or name == ".nii")


@pytest.mark.parametrize("suffix", [".HDR", ".mnc", "+tlrc.HEAD", "+tlrc.BRIK.gz"])
def test_files_that_are_not_looked_for_are_called_like_others(suffix):
    stem = f"sub-1_T1w{suffix[: suffix.index('.')]}"
    assert image_stem(f"scans/sub-1_T1w{suffix}") == stem
    assert not has_image_suffix(f"sub-1_T1w{suffix}")
