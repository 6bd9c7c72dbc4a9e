"""The time of a run is estimated from the operations of its steps."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from brainfeat.pretraining.estimate import describe_duration, step_flops
from brainfeat.pretraining.self_distillation import SelfDistillation

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dino_weight": 0.0, "infonce_weight": 0.2},
        {"ibot_weight": 0.0},
        {"activation_checkpointing": True},
    ],
)
def test_operations_are_those_of_a_step(small_config, make_views, changes, source):
    config = replace(
        small_config,
        infonce_weight=0.0,
        anatomy_weight=0.0,
        encoder=replace(small_config.encoder, slab_mixing=(), drop_path=0.0),
        head_hidden_dim=40,
        batch_size=5,
    )
    config = replace(config, **changes)
    model = SelfDistillation(config, 0)
    with FlopCounterMode(display=False) as counter:
        terms, *_ = model(make_views(config), teacher_temperature=0.2)
        terms.total.backward()
    expected = counter.get_total_flops()
    assert step_flops(config, source.shape) == pytest.approx(expected, rel=0.12)


def test_whole_volumes_cost_as_many_operations_as_they_have_tokens(small_config):
    views = replace(small_config.views, global_boxes="whole", n_local=0)
    config = replace(small_config, views=views, dino_weight=0.0, ibot_weight=0.0)
    one, other = (step_flops(config, (12, 16, n)) for n in (8, 24))
    assert other == pytest.approx(3 * one)


def test_duration_is_told_with_the_steps_of_an_hour(small_config):
    config = replace(small_config, n_steps=10**9, batch_size=6)
    text = describe_duration(config, (12, 16, 8), CPU)
    assert text.startswith("1000000000 steps of 6 subjects in float32 take about ")
    assert text.endswith(" takes about an hour.")
    assert describe_duration(config, (12, 16, 8), CPU, n_done=10**9 - 5) == ""
