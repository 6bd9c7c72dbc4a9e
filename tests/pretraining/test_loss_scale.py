"""Gradients in float16: scaled, checked, and left out where they overflow."""

from dataclasses import replace

import pytest
import torch

from brainfeat.exceptions import TrainingError
from brainfeat.pretraining import loss_scale
from brainfeat.pretraining.loss_scale import LossScale
from brainfeat.pretraining.trainer import Trainer
from brainfeat.pretraining.warm_start import Start


def test_a_gradient_keeps_what_float16_would_round_to_zero():
    scale = LossScale(enabled=True)
    weight = torch.ones(3, requires_grad=True)
    loss = weight.half().sum().float() * 1e-9
    scale.scale(loss).backward()
    scale.unscale([weight.grad])
    expected = torch.full((3,), 1e-9)
    torch.testing.assert_close(weight.grad, expected, rtol=1e-2, atol=0.0)


def test_an_overflow_leaves_out_the_step_and_halves_the_scale():
    scale = LossScale(enabled=True)
    before = scale.value
    assert not scale.accepts(float("inf"), 0)
    assert scale.value == before / 2
    assert scale.accepts(1.0, 1)
    assert scale.value == before / 2


def test_the_scale_grows_after_many_good_steps(monkeypatch):
    monkeypatch.setattr(loss_scale, "_GROWS_AFTER", 3)
    scale = LossScale(enabled=True)
    before = scale.value
    assert all(scale.accepts(1.0, step) for step in range(3))
    assert scale.value == 2 * before


def test_a_gradient_that_always_overflows_stops_the_run():
    scale = LossScale(enabled=True)
    scale.value = 0.1
    with pytest.raises(TrainingError, match="overflow in float16 whatever their scale"):
        scale.accepts(float("nan"), 5)


def test_other_precisions_are_not_scaled():
    scale = LossScale(enabled=False)
    loss = torch.tensor(3.0)
    assert scale.scale(loss) is loss
    assert scale.accepts(float("inf"), 0)


def test_a_step_in_float16_is_that_in_float32_and_its_scale_is_kept(
    source, small_config, tmp_path
):
    steps = []
    for precision in ("float16", "float32"):
        config = replace(small_config, precision=precision, n_steps=1)
        folder = tmp_path / precision
        trainer = Trainer(source, config, folder, device=torch.device("cpu"))
        trainer.loss_scale.value = 256.0 if precision == "float16" else 1.0
        trainer.prepare(Start(resumes=False))
        (step,) = trainer.steps()
        steps.append([step.measures[name] for name in ("total", "gradient_norm")])
    torch.testing.assert_close(*map(torch.tensor, steps), rtol=0.02, atol=0.0)
    config = replace(config, precision="float16")
    resumed = Trainer(source, config, tmp_path / "float16", device=torch.device("cpu"))
    resumed.prepare(Start(resumes=True))
    assert resumed.loss_scale.value == 256.0
