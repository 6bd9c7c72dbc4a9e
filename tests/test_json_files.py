import pytest

from brainfeat.exceptions import InputError
from brainfeat.json_files import read_own_json


def test_object_is_read(tmp_path):
    path = tmp_path / "index.json"
    path.write_text('{"format": 1}')
    assert read_own_json(path, "an index") == {"format": 1}


@pytest.mark.parametrize(
    ("text", "got"),
    [
        (b'{"format"', "no valid JSON"),
        (b"\xff", "no valid JSON"),
        (b"[1]", "no JSON o"),
    ],
)
def test_damaged_file_is_named(tmp_path, text, got):
    path = tmp_path / "index.json"
    path.write_bytes(text)
    with pytest.raises(InputError, match=f"index.json: expected an index, got {got}"):
        read_own_json(path, "an index")
