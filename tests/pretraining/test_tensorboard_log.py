import sys
from types import ModuleType

import pytest

from brainfeat.exceptions import MissingDependencyError
from brainfeat.pretraining.progress import TensorBoardLog
from brainfeat.pretraining.trainer import TrainingStep

STEPS = [
    TrainingStep(number, {"total": 10.0 / number, "teacher_entropy": None})
    for number in (6, 7)
]


def test_every_measure_of_a_step_is_a_scalar(tmp_path, monkeypatch):
    calls = []

    class SummaryWriter:
        def __init__(self, folder, *, purge_step):
            calls.append((folder, purge_step))

        def add_scalar(self, *arguments):
            calls.append(arguments)

        def close(self):
            calls.append("closed")

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with TensorBoardLog(tmp_path, next_step=5) as log:
        for step in STEPS:
            log.write(step)
    assert calls == [
        (str(tmp_path), 5),
        ("total", 10 / 6, 5),
        ("total", 10 / 7, 6),
        "closed",
    ]


def test_tensorboard_reads_the_curves(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import (
        EventAccumulator,
    )

    with TensorBoardLog(tmp_path) as log:
        for step in STEPS:
            log.write(step)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["scalars"] == ["total"]
    points = [(point.step, point.value) for point in events.Scalars("total")]
    assert points == [(5, pytest.approx(10 / 6)), (6, pytest.approx(10 / 7))]


def test_missing_tensorboard_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'brainfeat\[tens"):
        TensorBoardLog(tmp_path)
