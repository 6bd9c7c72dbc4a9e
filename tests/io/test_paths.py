from pathlib import Path

import pytest

from brainfeat.io.paths import expand_home, has_image_suffix, image_stem


def test_tilde_of_an_existing_user_only_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (
        expand_home("~/a.nii") == expand_home(Path("~", "a.nii")) == tmp_path / "a.nii"
    )
    for text in ("~nobody-of-this-name/a.nii", "~1.nii", "a~b"):
        assert expand_home(text) == Path(text)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        *(("a.nii.gz", "a"), ("A.NII.GZ", "A"), ("a.b.Mgz", "a.b")),
        *(("a.nii.zst", "a"), ("a.NRRD", "a"), ("a.mha", "a"), ("a.mhd", "a")),
        *(("a.json", "a.json"), ("a.nii.txt", "a.nii.txt"), (".nii", ".nii")),
    ],
)
def test_image_suffix_is_removed_in_any_case(name, stem):
    assert image_stem(Path("x.nii", name)) == stem
    assert has_image_suffix(name) == (stem != name or name == ".nii")


@pytest.mark.parametrize("suffix", [".HDR", ".mnc", "+tlrc.HEAD", "+tlrc.BRIK.gz"])
def test_formats_not_searched_for_have_a_stem_too(suffix):
    stem = f"sub-1_T1w{suffix[: suffix.index('.')]}"
    assert image_stem(f"scans/sub-1_T1w{suffix}") == stem
    assert not has_image_suffix(f"sub-1_T1w{suffix}")
