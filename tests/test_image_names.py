from pathlib import Path

import pytest

from brainfeat.image_names import has_image_suffix, image_stem


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


def test_header_is_called_like_its_image_but_is_none():
    assert image_stem("scans/sub-1_T1w.HDR") == "sub-1_T1w"
    assert not has_image_suffix("sub-1_T1w.hdr")
