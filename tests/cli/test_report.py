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


def test_report_shows_what_the_run_kept(table):
    result = run("report", table)
    assert result.exit_code == 0, result.stderr
    page = table.with_suffix(".html")
    assert result.stdout == f"report:   {page}\n"
    text = page.read_text()
    assert "preprocessing" not in result.stderr
    assert text.count("<use href=") == 4  # also of the scan that is gone


def test_rows_without_previews_are_preprocessed_again(table):
    shutil.rmtree(table.with_name("table.csv.previews"))
    result = run("report", table)
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert lines[-2] == "[4/4] preprocessing"
    assert lines[-1].startswith("failed: sub-")
    text = table.with_suffix(".html").read_text()
    assert text.count("<use href=") == 3
    assert "4 of 4 rows have no preview beside the table" in text


def test_page_that_cannot_be_written_fails_before_the_work(table, tmp_path):
    (tmp_path / "file").touch()
    page = tmp_path / "file" / "page.html"
    result = run("report", table, "-o", page)
    assert result.exit_code == 2
    reason = "cannot be read or written (Not a directory)."
    assert result.stderr == f"error: {page}: {reason}\n"
