import json

import pytest

from brainfeat.pretraining.run_log import RunLog


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path):
    """Log of a run of five steps, made in a folder that was not there."""
    path = tmp_path / "run" / "log.jsonl"
    log = RunLog(path, 0)
    for step in range(5):
        log.write(step, loss=step / 7, entropy=None)
    return path


def test_line_holds_the_values_that_there_are(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"step": step, "loss": step / 7} for step in range(5)]


@pytest.mark.parametrize("next_step", [0, 3, 5, 9])
def test_resumed_log_equals_an_uninterrupted_one(path, next_step):
    whole = path.read_text()
    log = RunLog(path, next_step)
    assert steps(path) == list(range(min(next_step, 5)))
    for step in range(next_step, 5):
        log.write(step, loss=step / 7)
    assert path.read_text() == whole


@pytest.mark.parametrize("rest", ['{"step": 2, "lo', "{", "3", '{"loss": 1}', "[]"])
def test_line_that_was_cut_off_is_dropped(path, rest):
    with path.open("a") as file:
        file.write(rest)
    log = RunLog(path, 5)
    log.write(5, loss=0.5)
    assert steps(path) == [0, 1, 2, 3, 4, 5]


def test_line_is_on_the_disk_when_it_is_written(tmp_path):
    log = RunLog(tmp_path / "log.jsonl", 0)
    log.write(0, loss=1.0)
    assert steps(tmp_path / "log.jsonl") == [0]


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("brainfeat.pretraining.run_log.rank", lambda: 1)
    RunLog(tmp_path / "log.jsonl", 0).write(0, loss=1.0)
    assert list(tmp_path.iterdir()) == []
