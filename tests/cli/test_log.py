"""The log of a command: what the tests of the commands do not cover."""

import platform
import re
import sys
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from brainfeat import __version__
from brainfeat.cli import app as cli

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d "


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture
def inputs(small_scans, tmp_path):
    """Three good scans, a bad one, and one that is not there."""
    bad = tmp_path / "sub-bad_T1w.nii.gz"
    bad.write_bytes(b"no image")
    good = sorted(small_scans.rglob("*_T1w.nii.gz"))[:3]
    return [*good, bad, tmp_path / "absent.nii"]


def test_log_file_has_a_header_times_and_counts(inputs, small_checkpoint, tmp_path):
    log, output = tmp_path / "logs" / "run.log", tmp_path / "a.csv"
    options = ["-o", output, "--checkpoint", small_checkpoint, "--device", "cpu"]
    result = run("embed", *inputs, *options, "--log-file", log)
    assert result.exit_code == 1
    lines = log.read_text().splitlines()
    assert all(re.match(TIME, line) for line in lines)
    header, command, _, *texts = (re.sub(TIME, "", line) for line in lines)
    assert header.startswith(f"brainfeat {__version__} on host {platform.node()}, ")
    assert ", device cpu, " in header
    assert command.startswith(f"command: brainfeat embed {inputs[0]} ")
    assert command.endswith(f" --log-file {log}")
    assert "5 subjects, 1 of which cannot be used" in texts
    assert sum(text.startswith("[5/5] ") for text in texts) == 1
    assert "5 subjects: 3 done, 0 skipped, 2 failed" in texts[-3]
    assert result.stdout.splitlines() == texts[-3:]
    # A second run is appended; its error has a time, too.
    result = run("embed", *inputs, *options, "--pooling", "cls", "--log-file", log)
    assert result.stderr.splitlines()[-1].startswith("error: ")
    again = log.read_text().splitlines()
    assert again[: len(lines)] == lines
    assert re.match(rf"{TIME}error: {output}: made with another pooling", again[-1])


class Terminal:
    """The standard error as a terminal."""

    def isatty(self):
        return True

    def __getattr__(self, name):
        return getattr(sys.stderr, name)


def test_log_file_has_the_lines_of_a_bar(
    inputs, small_checkpoint, tmp_path, monkeypatch
):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("brainfeat.progress.sys", SimpleNamespace(stderr=Terminal()))
    log = tmp_path / "run.log"
    options = ["-o", tmp_path / "a.csv", "--checkpoint", small_checkpoint]
    result = run("embed", *inputs, *options, "--log-file", log)
    text = log.read_text()
    assert [f"[{n}/5] " in text for n in (1, 2, 3, 4, 5)] == [False, *[True] * 4]
    assert "done after" not in result.stderr
    assert "[5/5] failed: " in result.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sub-bad_T1w.nii.gz", "exists and is not a log of brainfeat"),
        ("sub-bad_T1w.nii.gz/run.log", "cannot be read or written (File exists)"),
    ],
)
def test_log_file_that_cannot_be_written_fails_before_the_work(
    inputs, tmp_path, name, message
):
    named = ["--log-file", tmp_path / name]
    result = run("embed", *inputs, "-o", tmp_path / "a.csv", *named)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert message in line
    assert inputs[3].read_bytes() == b"no image"


def test_every_long_command_takes_a_log_file():
    for command in (["embed"], ["bids"], ["segment", "fit"], ["segment", "predict"]):
        assert "--log-file" in run(*command, "--help").output
    assert "--log-file" in run("pretrain", "--help").output
