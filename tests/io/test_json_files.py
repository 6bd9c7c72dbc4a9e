import pytest

from brainfeat.exceptions import ConfigError, InputError
from brainfeat.io.json_files import read_json, read_json_object


def test_object_is_read(tmp_path):
    path = tmp_path / "index.json"
    path.write_text('{"format": 1}')
    assert read_json(path, "an index") == {"format": 1}


@pytest.mark.parametrize(
    ("text", "got"),
    [
        (b'{"format"', "an index, got no valid JSON"),
        (b"\xff", "an index, got no valid JSON"),
        (b"\x00", "an index, got no valid JSON"),
        (b"[1]", "an index as a JSON object, got list"),
    ],
)
def test_damaged_file_is_named(tmp_path, text, got):
    path = tmp_path / "index.json"
    path.write_bytes(text)
    with pytest.raises(InputError, match=f"index.json: expected {got}"):
        read_json(path, "an index")


def test_error_has_the_requested_type(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.json: cannot be read \(No such file"):
        read_json(tmp_path / "a.json", "an index", error=ConfigError)


def test_missing_or_damaged_optional_file_is_none(tmp_path):
    path = tmp_path / "a.json"
    assert read_json_object(path) is None
    for text, expected in (('{"a": 1}', {"a": 1}), ("[1]", None), ('{"a', None)):
        path.write_text(text)
        assert read_json_object(path) == expected
    path.write_bytes(b"\xff{}")
    assert read_json_object(path) is None
