from pathlib import Path

import pytest

from brainfeat.exceptions import VolumeError
from brainfeat.subjects.blame import blame, blaming
from brainfeat.subjects.subject import Subject

SUBJECT = Subject("sub-07", {"T1w": Path("a/sub-07_T1w.nii.gz"), "T2w": None})


def test_error_begins_with_the_file():
    error = blame(VolumeError("no contrast."), SUBJECT)
    assert type(error) is VolumeError
    assert str(error) == f"{Path('a/sub-07_T1w.nii.gz')}: no contrast."


@pytest.mark.parametrize("text", ["a/sub-07_T1w.nii.gz: cut short.", "sub-07: none."])
def test_error_that_names_the_subject_is_left_alone(text):
    error = VolumeError(text)
    assert blame(error, SUBJECT) is error


def test_error_that_names_the_subject_elsewhere_begins_with_the_file():
    subject = Subject("a", {"T1w": Path("b/scan.nii.gz")})
    error = blame(VolumeError("expected contrast, as in b/scan.nii.gz"), subject)
    assert str(error).startswith(f"{Path('b/scan.nii.gz')}: expected contrast")
    in_memory = blame(VolumeError("not a NIfTI file."), Subject("a", {}))
    assert str(in_memory) == "a: not a NIfTI file."


def test_errors_of_a_block_begin_with_the_file():
    with (
        pytest.raises(VolumeError, match=r"sub-07_T1w\.nii\.gz: no contrast") as caught,
        blaming(SUBJECT),
    ):
        raise VolumeError("no contrast.")
    assert str(caught.value.__cause__) == "no contrast."
    with pytest.raises(VolumeError, match=r"^sub-07: none") as caught, blaming(SUBJECT):
        raise VolumeError("sub-07: none.")
    assert caught.value.__cause__ is None


def test_error_of_another_library_keeps_its_type_and_gets_a_note():
    error = ZeroDivisionError("x")
    assert blame(error, Subject("sub-07", {"T1w": None})) is error
    assert error.__notes__ == ["while preprocessing sub-07"]
