import json
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from torch import nn

from brainfeat.exceptions import TrainingError
from brainfeat.pretraining import run_state
from brainfeat.pretraining.optimizer import build_optimizer, set_schedule
from brainfeat.pretraining.run_state import (
    RunLog,
    load_run_state,
    save_run_state,
    whole_tensor,
)
from brainfeat.pretraining.self_distillation import SelfDistillation, unwrapped

FACTS = {"next_step": 3, "best_score": None}


class Wrapped(nn.Module):
    """A stand-in for `DistributedDataParallel`."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def build(config, seed=0, n_targets=3):
    torch.manual_seed(seed)
    model = SelfDistillation(config, n_targets)
    return model, build_optimizer(model.student, config)


def train(model, optimizer, config, steps):
    """Follow random gradients, without a loss."""
    for step in steps:
        set_schedule(optimizer, step, config)
        generator = torch.Generator().manual_seed(step)
        for parameter in unwrapped(model.student).parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
        model.update_teacher(0.9)
        model.dino_centring.center.add_(step)


def assert_same_weights(first, second):
    one, other = first.state_dict(), second.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def moments(optimizer):
    """State of each parameter, in the order of the groups."""
    groups = optimizer.param_groups
    return [optimizer.state[p] for group in groups for p in group["params"]]


@pytest.fixture
def saved(small_config, tmp_path):
    """A file of three steps, and the model and optimizer that were trained further."""
    path = tmp_path / "state.safetensors"
    model, optimizer = build(small_config)
    train(model, optimizer, small_config, range(3))
    save_run_state(path, model, optimizer, FACTS)
    return path, model, optimizer


def test_state_is_loaded_bit_by_bit(saved, small_config):
    path, model, optimizer = saved
    loaded, other = build(small_config, seed=1)
    assert load_run_state(path, loaded, other) == FACTS
    assert_same_weights(model, loaded)
    moments = [
        [
            state
            for group in o.param_groups
            for state in map(o.state.get, group["params"])
        ]
        for o in (optimizer, other)
    ]
    for one, two in zip(*moments, strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_training_from_a_loaded_state_equals_uninterrupted(saved, small_config):
    path, model, optimizer = saved
    loaded, other = build(small_config, seed=1)
    load_run_state(path, loaded, other)
    for networks, steps in ((model, optimizer), (loaded, other)):
        train(networks, steps, small_config, range(3, 6))
    assert_same_weights(model, loaded)


def test_loaded_state_shares_no_memory_with_the_saved_one(saved, small_config):
    path, model, optimizer = saved
    before = path.read_bytes()
    train(model, optimizer, small_config, range(3, 5))
    assert path.read_bytes() == before


def test_state_file_is_no_pickle(saved):
    path, *_ = saved
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(path.read_bytes())
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
    assert {name.split(".")[0] for name in names} == {
        "model",
        "exp_avg",
        "exp_avg_sq",
        "step",
    }


def test_states_of_wrapped_and_bare_students_are_the_same(
    saved, small_config, tmp_path
):
    path, *_ = saved
    wrapped, other = build(small_config, seed=1)
    wrapped.student = Wrapped(wrapped.student)
    load_run_state(path, wrapped, other)
    again = tmp_path / "again.safetensors"
    save_run_state(again, wrapped, other, FACTS)
    assert again.read_bytes() == path.read_bytes()


def test_state_before_the_first_step_can_be_loaded(small_config, tmp_path):
    path = tmp_path / "state.safetensors"
    model, optimizer = build(small_config)
    save_run_state(path, model, optimizer, {"next_step": 0})
    loaded, other = build(small_config, seed=1)
    assert load_run_state(path, loaded, other) == {"next_step": 0}
    assert_same_weights(model, loaded)
    assert not other.state


def test_failed_write_keeps_the_old_file(saved, monkeypatch):
    path, model, optimizer = saved
    before = path.read_bytes()

    def half(_, partial, **__):
        partial.write_bytes(before[:99])
        raise OSError("no space left")

    monkeypatch.setattr(run_state, "save_file", half)
    with pytest.raises(OSError, match="no space left"):
        save_run_state(path, model, optimizer, FACTS)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_other_ranks_write_nothing(small_config, tmp_path, monkeypatch):
    monkeypatch.setattr(run_state, "rank", lambda: 1)
    save_run_state(tmp_path / "state", *build(small_config), FACTS)
    assert list(tmp_path.iterdir()) == []


def test_state_of_other_objectives_is_refused(saved, small_config):
    path, *_ = saved
    config = replace(small_config, infonce_weight=0.0)
    with pytest.raises(TrainingError, match=r"state\.safetensors.*projector"):
        load_run_state(path, *build(config))


def test_state_of_other_sizes_is_refused_and_nothing_changed(saved, small_config):
    path, *_ = saved
    loaded, optimizer = build(small_config, seed=1, n_targets=1)
    before, _ = build(small_config, seed=1, n_targets=1)
    with pytest.raises(TrainingError, match=r"anatomy_head\.mean"):
        load_run_state(path, loaded, optimizer)
    assert_same_weights(before, loaded)


def test_whole_tensor_is_detached():
    weight = nn.Parameter(torch.ones(2, 3))
    whole = whole_tensor(weight * 2)
    assert not whole.requires_grad
    assert whole.device.type == "cpu"
    assert torch.equal(whole, torch.full((2, 3), 2.0))


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@pytest.fixture
def log_path(tmp_path):
    """Log of a run of five steps, in a new folder."""
    path = tmp_path / "run" / "log.jsonl"
    log = RunLog(path, 0)
    for step in range(5):
        log.write(step, loss=step / 7, entropy=None)
    return path


def test_log_line_omits_values_that_are_none(log_path):
    lines = [json.loads(line) for line in log_path.read_text().splitlines()]
    assert lines == [{"step": step, "loss": step / 7} for step in range(5)]


@pytest.mark.parametrize("next_step", [0, 3, 5, 9])
def test_resumed_log_equals_an_uninterrupted_one(log_path, next_step):
    whole = log_path.read_text()
    log = RunLog(log_path, next_step)
    assert steps(log_path) == list(range(min(next_step, 5)))
    for step in range(next_step, 5):
        log.write(step, loss=step / 7)
    assert log_path.read_text() == whole


@pytest.mark.parametrize("rest", ['{"step": 2, "lo', "{", "3", '{"loss": 1}', "[]"])
def test_incomplete_log_line_is_dropped(log_path, rest):
    with log_path.open("a") as file:
        file.write(rest)
    log = RunLog(log_path, 5)
    log.write(5, loss=0.5)
    assert steps(log_path) == [0, 1, 2, 3, 4, 5]


def test_log_line_is_written_at_once(tmp_path):
    log = RunLog(tmp_path / "log.jsonl", 0)
    log.write(0, loss=1.0)
    assert steps(tmp_path / "log.jsonl") == [0]


def test_other_ranks_write_no_log(tmp_path, monkeypatch):
    monkeypatch.setattr("brainfeat.pretraining.run_state.rank", lambda: 1)
    RunLog(tmp_path / "log.jsonl", 0).write(0, loss=1.0)
    assert list(tmp_path.iterdir()) == []
