import io
import re
from pathlib import Path

from brainfeat.cli.training_display import TrainingDisplay, format_training
from brainfeat.exceptions import VolumeError
from brainfeat.pretraining.run import TrainingSummary
from brainfeat.pretraining.store_writer import Scan, ScanEvent
from brainfeat.pretraining.trainer import StepEvent
from brainfeat.subjects.subject import Outcome, Subject

SCAN = Scan(subject="sub-1", images={"T1w": "/a.nii"})
EVENTS = [
    ScanEvent(1, 12, SCAN, None),
    ScanEvent(2, 12, SCAN, VolumeError("/[b]\n.nii: cut [red]short.")),
    *(
        StepEvent(number, 107, {"total": 100 / number, "subjects_per_second": 2.5})
        for number in (98, 99, 100, 101, 107)
    ),
]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_elsewhere_than_on_a_terminal_there_are_lines():
    stream = io.StringIO()
    with TrainingDisplay(10, stream) as display:
        for event in EVENTS:
            display(event)
    lines = stream.getvalue().splitlines()
    assert lines[:3] == [
        "[ 1/12] sub-1: preprocessed",
        "[ 2/12] sub-1: failed: /[b] .nii: cut [red]short.",
        "[ 98/107] loss 1.020, 2.5 subjects/s",  # the first one, after a resume
    ]
    assert re.fullmatch(
        r"\[100/107\] loss 1\.000, 2\.5 subjects/s, \d:\d\d:\d\d left", lines[3]
    )
    assert lines[4:] == ["[107/107] loss 0.935, 2.5 subjects/s"]


def test_on_a_terminal_there_are_bars_and_failures_stay_above_them(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    with TrainingDisplay(10, stream) as display:
        for event in EVENTS:
            display(event)
    text = stream.getvalue()
    assert "failed: /[b] .nii: cut [red]short." in text
    assert "preprocessing" in text
    assert "training" in text
    assert "loss 0.935" in text
    assert "107/107" in text


def test_the_summary_says_what_was_done_and_where_it_is():
    failed = (
        Outcome(Subject("sub-1", {"T1w": "/b.nii"}), error=VolumeError("cut short.")),
    )
    folder, path = Path("run"), Path("run/failures.tsv")
    summary = TrainingSummary(None, folder, 107, 0.93457, failed, path)
    assert format_training(summary).splitlines() == [
        "107 steps done, final loss 0.935, 1 failed",
        "checkpoint: run",
        "failures:   run/failures.tsv",
    ]
    summary = TrainingSummary(None, folder, 7, None, (), None)
    assert format_training(summary) == "7 steps done\ncheckpoint: run"
