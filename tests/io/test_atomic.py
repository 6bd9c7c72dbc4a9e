import json
import os
import subprocess
import sys

import pytest

from brainfeat.io.atomic import atomic_write, check_can_write
from brainfeat.io.json_files import write_json


def test_failed_block_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as partial:
        partial.write_text(str(1 / 0))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_names_the_target_file(tmp_path):
    path = tmp_path / "page.html"
    command = (
        "import resource, sys\n"
        "from brainfeat.io.json_files import write_json\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try:\n    write_json(sys.argv[1], {'a': 'x' * 1000})\n"
        "except OSError as error:\n    print(error.filename)\n"
    )
    arguments = [sys.executable, "-c", command, path]
    result = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(path)
    assert list(tmp_path.iterdir()) == []


def test_partial_file_keeps_both_suffixes(tmp_path):
    with atomic_write(tmp_path / "new" / "a.nii.gz") as partial:
        assert partial.name.endswith(".nii.gz")
        assert not (tmp_path / "new" / "a.nii.gz").exists()


def test_path_that_cannot_be_written_is_named(tmp_path, bound_by_permissions):
    tmp_path.chmod(0o500)
    command = "from brainfeat.io.json_files import write_json; write_json('a.json', {})"
    result = subprocess.run(
        [sys.executable, "-c", command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        preexec_fn=bound_by_permissions,
    )
    error = "PermissionError: [Errno 13] Permission denied: 'a.json'"
    assert result.stderr.splitlines()[-1] == error


def test_file_has_the_permissions_of_an_ordinary_one(tmp_path):
    (tmp_path / "plain").touch()
    with atomic_write(tmp_path / "atomic") as partial:
        partial.chmod(0o600)  # as some libraries make it
    plain, atomic = (tmp_path / name for name in ("plain", "atomic"))
    assert atomic.stat().st_mode == plain.stat().st_mode


def test_umask_of_the_process_is_unchanged(tmp_path):
    # Files that other threads create meanwhile would be open to everyone.
    called = []
    sys.setprofile(lambda _frame, _event, what: called.append(what))
    try:
        with atomic_write(tmp_path / "atomic"):
            pass
    finally:
        sys.setprofile(None)
    assert os.fsync in called
    assert os.umask not in called


def test_failed_json_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "new" / "values.json"
    write_json(path, {"name": "größer", "list": [1, 2]})
    assert json.loads(path.read_text(encoding="utf-8"))["list"] == [1, 2]
    with pytest.raises(TypeError):
        write_json(path, {"name": object()})
    assert json.loads(path.read_text(encoding="utf-8"))["name"] == "größer"
    assert [file.name for file in path.parent.iterdir()] == ["values.json"]


@pytest.mark.parametrize(
    ("name", "is_folder", "error"),
    [
        ("file/a/b.csv", False, NotADirectoryError),
        ("file", True, NotADirectoryError),
        ("folder", False, IsADirectoryError),
        ("folder", True, None),
        ("file", False, None),
        ("new/folder/b.csv", False, None),
    ],
)
def test_output_is_checked_without_being_created(tmp_path, name, is_folder, error):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    if error is None:
        check_can_write(tmp_path / name, is_folder=is_folder)
    else:
        with pytest.raises(error) as caught:
            check_can_write(tmp_path / name, is_folder=is_folder)
        assert caught.value.filename == str(tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "old"
