import shutil

import pytest
from typer.testing import CliRunner

from brainfeat.cli import app as cli


@pytest.fixture
def table(small_scans, small_checkpoint, tmp_path):
    """Table of four scans, of which one was deleted."""
    for subject in sorted(small_scans.glob("sub-*"))[:4]:
        shutil.copytree(subject, tmp_path / "bids" / subject.name)
    table = tmp_path / "table.csv"
    run("embed", tmp_path / "bids", "-o", table, "--checkpoint", small_checkpoint)
    shutil.rmtree(sorted((tmp_path / "bids").iterdir())[1])
    return table


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_report_names_the_page_and_failed_images(table):
    result = run("report", table)
    assert result.exit_code == 1
    page = table.with_suffix(".html")
    assert result.stdout == f"report:   {page}\n"
    lines = result.stderr.splitlines()
    assert lines[-2] == "[4/4] preprocessing"
    assert lines[-1].startswith("failed: sub-")
    assert page.read_text().count("<use href=") == 3


def test_page_that_cannot_be_written_fails_before_the_work(table, tmp_path):
    (tmp_path / "file").touch()
    page = tmp_path / "file" / "page.html"
    result = run("report", table, "-o", page)
    assert result.exit_code == 2
    reason = "cannot be read or written (Not a directory)."
    assert result.stderr == f"error: {page}: {reason}\n"
