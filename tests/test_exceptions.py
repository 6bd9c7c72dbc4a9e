import inspect

import pytest

from brainfeat import exceptions

ERRORS = [
    error
    for _, error in inspect.getmembers(exceptions, inspect.isclass)
    if issubclass(error, Exception) and not issubclass(error, Warning)
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_each_error_is_ours_and_also_a_builtin(error):
    assert issubclass(error, exceptions.BrainfeatError)
    if error is not exceptions.BrainfeatError:
        builtin = (ValueError, RuntimeError, ImportError)
        assert issubclass(error, builtin)


def test_brief_reason_is_one_line_without_error_number_and_file(tmp_path):
    with pytest.raises(OSError, match="Errno") as caught:
        (tmp_path / "a.tsv").read_text()
    assert exceptions.brief_reason(caught.value) == "No such file or directory"
    assert exceptions.brief_reason(ValueError("two\n  lines")) == "two lines"


def test_missing_file_is_caught_as_the_builtin():
    with pytest.raises(FileNotFoundError):
        raise exceptions.VolumeNotFoundError("a.nii: no such file.")
