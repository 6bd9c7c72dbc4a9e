"""The curves of a run on one page."""

import json
import re

import pytest
from typer.testing import CliRunner

from brainfeat.cli import app as cli
from brainfeat.exceptions import InputError
from brainfeat.reporting.run_report import is_run, report_on_run


@pytest.fixture
def run(tmp_path):
    """Folder of a run of 30 steps, logged every third, with three probes."""
    lines = [
        {"step": s, "total": 9.0 - s / 10, "dino": 4.0, "anatomy": 0.0}
        for s in range(0, 30, 3)
    ]
    lines += [{"step": s, "probe": 0.5 + s / 100} for s in (-1, 9, 19)]
    lines[4]["effective_rank"] = 12.5
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "log.jsonl").write_text(text)
    (tmp_path / "pretraining.json").write_text('{"n_steps": 30, "batch_size": 7}')
    return tmp_path


def curves(page):
    """Return the points of each curve by its title."""
    found = re.findall(
        r'aria-label="([^"]+)">.*?<polyline points="([^"]+)"', page, re.DOTALL
    )
    return {
        title: [tuple(map(float, pair.split(","))) for pair in points.split()]
        for title, points in found
    }


def test_each_measure_of_the_log_is_a_curve(run):
    assert is_run(run)
    page = report_on_run(run).read_text()
    drawn = curves(page)
    assert {*drawn} == {"Loss", "Objective dino", "Probe", "Effective rank"}
    assert [len(points) for points in drawn.values()] == [10, 10, 1, 3]
    heights = [y for _, y in drawn["Loss"]]
    assert heights == sorted(heights)  # a loss that falls goes down on the page
    widths = [x for x, _ in drawn["Probe"]]
    assert widths == sorted(widths)
    assert "0.49 at first, 0.69 in the end" in page
    assert "<script" not in page


def test_a_page_of_others_is_kept_and_a_damaged_log_reported(run):
    page = report_on_run(run)
    assert report_on_run(run) == page
    page.write_text("mine")
    with pytest.raises(InputError, match=r"curves\.html: exists and is not ours"):
        report_on_run(run)
    other = report_on_run(run, run / "other.html")
    assert other.is_file()
    (run / "log.jsonl").write_text('{"step": 0, "total": 1.0}\n{"ste')
    with pytest.raises(InputError, match="the log of a run, got another line 2"):
        report_on_run(run, other)


def test_the_command_writes_the_page_of_a_run(run):
    result = CliRunner().invoke(cli.app, ["report", str(run)])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"report:   {run / 'curves.html'}\n"
