import csv
import errno
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from brainfeat.exceptions import VolumeError
from brainfeat.subjects.failures import (
    _Line,
    add_context,
    adding_context,
    crash_path,
    describe_failure,
    failures_path,
    outdated_by,
    unique_failures,
    write_failures,
)
from brainfeat.subjects.subject import Outcome, Subject

SUBJECT = Subject("sub-07", {"T1w": Path("a/sub-07_T1w.nii.gz"), "T2w": None})


def failed(participant, file, reason):
    subject = Subject(participant, {}, source=file)
    return Outcome(subject, error=VolumeError(f"{file}: {reason}"))


def test_error_begins_with_the_file():
    error = add_context(VolumeError("no contrast."), SUBJECT)
    assert type(error) is VolumeError
    assert str(error) == f"{Path('a/sub-07_T1w.nii.gz')}: no contrast."


@pytest.mark.parametrize("text", ["a/sub-07_T1w.nii.gz: cut short.", "sub-07: none."])
def test_error_that_names_the_subject_is_unchanged(text):
    error = VolumeError(text)
    assert add_context(error, SUBJECT) is error


def test_error_that_names_the_subject_elsewhere_begins_with_the_file():
    subject = Subject("a", {"T1w": Path("b/scan.nii.gz")})
    error = add_context(VolumeError("expected contrast, as in b/scan.nii.gz"), subject)
    assert str(error).startswith(f"{Path('b/scan.nii.gz')}: expected contrast")
    in_memory = add_context(VolumeError("not a NIfTI file."), Subject("a", {}))
    assert str(in_memory) == "a: not a NIfTI file."


def test_errors_of_a_block_begin_with_the_file():
    with (
        pytest.raises(VolumeError, match=r"sub-07_T1w\.nii\.gz: no contrast") as caught,
        adding_context(SUBJECT),
    ):
        raise VolumeError("no contrast.")
    assert str(caught.value.__cause__) == "no contrast."
    with (
        pytest.raises(VolumeError, match=r"^sub-07: none") as caught,
        adding_context(SUBJECT),
    ):
        raise VolumeError("sub-07: none.")
    assert caught.value.__cause__ is None


def test_error_of_another_library_keeps_its_type_and_gets_a_note():
    error = ZeroDivisionError("x")
    assert add_context(error, Subject("sub-07", {"T1w": None})) is error
    assert error.__notes__ == ["while preprocessing sub-07"]


@pytest.mark.parametrize("name", ["/data/a.nii", "/data/a\n b.nii", "/data/a\tb.nii"])
def test_reason_is_one_line_without_the_file(name):
    subject = Subject("sub-01", {"T1w": name})
    outcome = Outcome(subject, error=VolumeError(f"{name}: not a\n  readable image."))
    assert _Line.of(outcome) == ("sub-01", name, "not a readable image.")
    one_name = " ".join(name.split())
    assert describe_failure(outcome) == f"{one_name}: not a readable image."


def test_reason_names_another_file_or_the_kind_of_error():
    subject = Subject("sub-01", {"T1w": "/data/a.nii"})
    other = Outcome(subject, error=VolumeError("/data/b.nii: empty."))
    assert _Line.of(other).reason == "/data/b.nii: empty."
    assert _Line.of(Outcome(subject, error=KeyError())).reason == "KeyError"


def test_equal_failures_are_one():
    first, second = failed("", "a", "b"), failed("", "c", "d")
    assert unique_failures([first, second, failed("", "a", "b")]) == (first, second)


def test_failures_of_other_runs_are_kept_unless_they_are_outdated(tmp_path):
    path = tmp_path / "out.failures.tsv"
    old, new = failed("sub-01", "a.nii", "cut."), failed("sub-02", "b.nii", "0.")
    write_failures(path, [old, new])
    assert write_failures(path, [], is_outdated=lambda _: False) == path
    assert len(path.read_text().splitlines()) == 3
    again = failed("sub-01", "a.nii", "empty.")
    write_failures(path, [again], is_outdated=lambda _: False)
    lines = path.read_text().splitlines()
    assert lines[1:] == ["sub-02\tb.nii\t0.", "sub-01\ta.nii\tempty."]


def test_failures_of_names_with_line_ends_are_kept(tmp_path):
    path = tmp_path / "out.failures.tsv"
    # As a shell reads them from a list written on Windows.
    failures = [(f"sub-{i}\r", f"/sub-{i}\r/a.nii", "cut.") for i in (1, 2)]
    for failure in failures:
        write_failures(path, [failed(*failure)], is_outdated=lambda _: False)
    with path.open(newline="") as file:
        lines = list(csv.reader(file, delimiter="\t"))
    assert lines[1:] == list(map(list, failures))


def test_full_disk_names_the_table_of_failures(tmp_path):
    path = tmp_path / "out.failures.tsv"
    command = (
        "import resource, sys\n"
        "from brainfeat.subjects.failures import write_failures\n"
        "from brainfeat.subjects.subject import Outcome, Subject\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "subject = Subject('sub-01', {'T1w': 'a.nii'})\n"
        "failures = [Outcome(subject, error=ValueError('x' * 1000))]\n"
        "try:\n    write_failures(sys.argv[1], failures)\n"
        "except OSError as error:\n    print(error.filename)\n"
    )
    arguments = [sys.executable, "-c", command, path]
    result = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(path)
    assert list(tmp_path.iterdir()) == []


def _raised(participant, file, reason):
    try:
        raise VolumeError(f"{file}: {reason}")
    except VolumeError as error:
        return Outcome(Subject(participant, {}, source=file), error=error)


def test_tracebacks_are_kept_as_long_as_their_failures(tmp_path):
    path = tmp_path / "out.failures.tsv"
    failures = [
        _raised("sub-01", "a\n1.nii", "cut."),
        _raised("", "b.nii", "0."),
        _raised("sub-03", "c.nii", "no brain."),
    ]
    outdated = _Line.of(failures[1])
    for failure in failures:
        write_failures(path, [failure], tracebacks=True, is_outdated=outdated.__eq__)
    text = crash_path(path).read_text()
    assert text.count("Traceback") == 2
    assert text.startswith("sub-01  a 1.nii: cut.\n")
    assert "\nsub-03  c.nii: no brain.\n" in text
    # The same failure again has one traceback, and a listed one may have none.
    write_failures(path, failures[:1], tracebacks=True, is_outdated=lambda _: False)
    assert crash_path(path).read_text().count("Traceback") == 2
    write_failures(path, [failed("sub-04", "d.nii", "misfiled.")], tracebacks=True)
    assert list(tmp_path.iterdir()) == [path]


def _write_some(path, index):
    for n in range(12):
        failure = failed(f"sub-{index}{n:02d}", "a.nii", "cut.")
        write_failures(path, [failure], is_outdated=lambda _: False)


@pytest.mark.skipif(sys.platform == "win32", reason="has no flock")
def test_concurrent_processes_list_all_failures(tmp_path):
    path = tmp_path / "out.failures.tsv"
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_write_some, args=(path, index)) for index in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(path.read_text().splitlines()) == 1 + 3 * 12
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="has no flock")
def test_failures_are_written_where_files_cannot_be_locked(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    path = tmp_path / "out.failures.tsv"
    assert write_failures(path, [failed("sub-01", "a.nii", "cut.")]) == path
    assert len(path.read_text().splitlines()) == 2


def test_table_of_failures_is_removed_by_a_run_without_any(tmp_path):
    output = failures_path(tmp_path / "out.parquet")
    failures = [failed("sub-01", "a\t1.nii", "cut\nshort"), failed("", "b", "c")]
    path = write_failures(output, failures)
    assert path == output == tmp_path / "out.failures.tsv"
    with path.open(newline="") as file:
        lines = list(csv.reader(file, delimiter="\t"))
    assert lines[0] == ["participant_id", "file", "reason"]
    assert lines[1:] == [["sub-01", "a\t1.nii", "cut short"], ["", "b", "c"]]
    assert write_failures(output, []) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("participant", "file", "expected"),
    [
        ("sub-1", "/bids/sub-1/ses-1/anat/sub-1_ses-1_T1w.nii", True),
        ("sub-1", "/bids/sub-1/ses-1/anat/sub-1_ses-1_run-2_T1w.nii", True),
        ("sub-1", "/bids/sub-1/ses-1/anat", True),
        ("sub-1", "/bids/sub-1/sub-1_sessions.tsv", True),
        ("sub-1", "/bids/sub-1/ses-1/anat/sub-1_ses-2_T1w.nii", True),
        ("sub-1", "/bids/sub-1/ses-2/anat/sub-1_ses-2_T1w.nii", False),
        ("sub-1", "/bids/sub-1/ses-2/anat/sub-1_ses-1_T1w.nii", False),
        ("sub-1", "/scans/sub-1_ses-1_T1w.nii", True),
        ("sub-1", "/scans/sub-1_ses-2_T1w.nii", False),
        ("sub-1", "/bids/sub-1/ses-1", True),
        ("sub-1", "/bids/sub-1/ses-2/anat", False),
        ("P7", "/scans/old.nii", True),
        ("P8", "/scans/new.nii", True),
        ("P9", "/scans/other.nii", False),
        ("", "/scans/other.nii", True),
    ],
)
def test_failure_is_outdated_by_its_image_or_session(participant, file, expected):
    path = "/bids/sub-1/ses-1/anat/sub-1_ses-1_T1w.nii"
    session = Subject(participant_id="sub-1", session_id="ses-1", images={"T1w": path})
    other = Subject(participant_id="P7", images={"T1w": "/scans/new.nii"})
    failure = _Line(participant, file, "empty.")
    assert outdated_by([session, other])(failure) == expected
