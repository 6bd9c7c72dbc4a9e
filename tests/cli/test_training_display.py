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


def test_scans_and_steps_are_lines(capsys):
    with TrainingDisplay(10) as display:
        for event in EVENTS:
            display(event)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [
        "[ 1/12] sub-1: preprocessed",
        "[ 2/12] sub-1: failed: /[b] .nii: cut [red]short.",
        "[ 98/107] training, loss 1.020, 2.5 subjects/s",
    ]
    assert re.fullmatch(
        r"\[100/107\] training, loss 1\.000, 2\.5 subjects/s, \d:\d\d:\d\d left",
        lines[3],
    )


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
