from pathlib import Path

from brainfeat.io.paths import expand_home


def test_a_home_is_expanded_if_it_is_somebody_s(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (
        expand_home("~/a.nii") == expand_home(Path("~", "a.nii")) == tmp_path / "a.nii"
    )
    for text in ("~nobody-of-this-name/a.nii", "~1.nii", "a~b"):
        assert expand_home(text) == Path(text)
