import csv
import errno
import multiprocessing
import subprocess
import sys

import pytest

from brainfeat.exceptions import VolumeError
from brainfeat.subjects.failures import (
    FailedRow,
    Tracebacks,
    crash_path,
    failures_path,
    outdated_by,
    write_failures,
)
from brainfeat.subjects.subject import Subject


def test_the_reason_is_one_line_without_the_file():
    error = VolumeError("/data/a.nii: not a\n  readable image.")
    failure = FailedRow.from_error("sub-01", "/data/a.nii", error)
    assert failure.reason == "not a readable image."
    assert str(failure) == "/data/a.nii: not a readable image."


@pytest.mark.parametrize("name", ["/data/a  b.nii", "/data/a\nb.nii", "/data/a\tb.nii"])
def test_the_reason_does_not_repeat_a_file_with_blanks_in_its_name(name):
    error = VolumeError(f"{name}: cut short.")
    assert FailedRow.from_error("sub-01", name, error).reason == "cut short."


def test_an_error_that_names_another_file_keeps_its_name():
    error = VolumeError("/data/b.nii: empty.")
    assert FailedRow.from_error("x", "/data/a.nii", error).reason == str(error)


def test_an_error_without_words_is_named():
    assert FailedRow.from_error("x", "a.nii", KeyError()).reason == "KeyError"


def test_failures_of_other_runs_are_kept_unless_they_are_outdated(tmp_path):
    path = tmp_path / "out.failures.tsv"
    old, new = FailedRow("sub-01", "a.nii", "cut."), FailedRow("sub-02", "b.nii", "0.")
    write_failures(path, [old, new])
    assert write_failures(path, [], is_outdated=lambda _: False) == path
    assert len(path.read_text().splitlines()) == 3
    write_failures(path, [old._replace(reason="empty.")], is_outdated=lambda _: False)
    lines = path.read_text().splitlines()
    assert lines[1:] == ["sub-02\tb.nii\t0.", "sub-01\ta.nii\tempty."]


def test_failures_of_names_with_line_ends_are_kept(tmp_path):
    path = tmp_path / "out.failures.tsv"
    # As a shell makes them of a list from Windows.
    failures = [FailedRow(f"sub-{i}\r", f"/sub-{i}\r/a.nii", "cut.") for i in (1, 2)]
    for failure in failures:
        write_failures(path, [failure], is_outdated=lambda _: False)
    with path.open(newline="") as file:
        lines = list(csv.reader(file, delimiter="\t"))
    assert lines[1:] == list(map(list, failures))


def test_a_full_disk_names_the_table_of_failures(tmp_path):
    path = tmp_path / "out.failures.tsv"
    command = (
        "import resource, sys\n"
        "from brainfeat.subjects.failures import FailedRow, write_failures\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "failures = [FailedRow('sub-01', 'a.nii', 'x' * 1000)]\n"
        "try:\n    write_failures(sys.argv[1], failures)\n"
        "except OSError as error:\n    print(error.filename)\n"
    )
    arguments = [sys.executable, "-c", command, path]
    result = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(path)
    assert list(tmp_path.iterdir()) == []


def _raised(failure):
    tracebacks = Tracebacks()
    try:
        raise VolumeError(f"{failure.file}:\n\n{failure.reason}")
    except VolumeError as error:
        tracebacks.add(failure, error)
    return tracebacks


def test_tracebacks_are_kept_as_long_as_their_failures(tmp_path):
    path = tmp_path / "out.failures.tsv"
    failures = [
        FailedRow("sub-01", "a\n1.nii", "cut."),
        FailedRow("", "b.nii", "0."),
        FailedRow("sub-03", "c.nii", "no brain."),
    ]
    for failure in failures:
        write_failures(
            path, [failure], _raised(failure), is_outdated=failures[1].__eq__
        )
    text = crash_path(path).read_text()
    assert text.count("Traceback") == 2
    assert text.startswith("sub-01  a 1.nii: cut.\n")
    assert "\nsub-03  c.nii: no brain.\n" in text
    # The same failure again has one traceback, and a listed one may have none.
    write_failures(
        path, failures[:1], _raised(failures[0]), is_outdated=lambda _: False
    )
    assert crash_path(path).read_text().count("Traceback") == 2
    write_failures(path, [FailedRow("sub-04", "d.nii", "misfiled.")])
    assert list(tmp_path.iterdir()) == [path]


def _write_some(path, index):
    for n in range(12):
        failure = FailedRow(f"sub-{index}{n:02d}", "a.nii", "cut.")
        write_failures(path, [failure], is_outdated=lambda _: False)


@pytest.mark.skipif(sys.platform == "win32", reason="has no flock")
def test_processes_that_fail_at_the_same_time_list_all_failures(tmp_path):
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
    assert write_failures(path, [FailedRow("sub-01", "a.nii", "cut.")]) == path
    assert len(path.read_text().splitlines()) == 2


def test_failures_lie_beside_the_table_until_a_run_without_any(tmp_path):
    output = failures_path(tmp_path / "out.parquet")
    failures = [FailedRow("sub-01", "a\t1.nii", "cut\nshort"), FailedRow("", "b", "c")]
    path = write_failures(output, failures)
    assert path == output == tmp_path / "out.failures.tsv"
    with path.open(newline="") as file:
        lines = list(csv.reader(file, delimiter="\t"))
    assert lines[0] == ["participant_id", "file", "reason"]
    assert [tuple(line) for line in lines[1:]] == failures
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
def test_a_failure_is_outdated_by_its_image_or_visit(participant, file, expected):
    path = "/bids/sub-1/ses-1/anat/sub-1_ses-1_T1w.nii"
    visit = Subject(participant_id="sub-1", session_id="ses-1", images={"T1w": path})
    other = Subject(participant_id="P7", images={"T1w": "/scans/new.nii"})
    failure = FailedRow(participant, file, "empty.")
    assert outdated_by([visit, other])(failure) == expected
