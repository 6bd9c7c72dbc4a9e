"""Two ranks learn what one process does with all subjects.

Run as a script, this is one of the processes.
"""

import os
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from brainfeat.pretraining.optimizer import build_optimizer
from brainfeat.pretraining.parallel import wrap_for_ranks
from brainfeat.pretraining.run_state import whole_tensor
from brainfeat.pretraining.self_distillation import SelfDistillation, unwrapped
from brainfeat.pretraining.source import seeded_generator
from brainfeat.pretraining.views import DrawnViews, Views

CASES = [
    ("sinkhorn", "ddp"),
    ("moving_average", "ddp"),
    ("sinkhorn", "fully_shard"),
]
N_SUBJECTS = 4
N_STEPS = 3


def make_config(centring, parallel):
    room = runpy.run_path(str(Path(__file__).with_name("conftest.py")))
    config = room["SMALL_CONFIG"]
    # Stochastic depth would draw differently in each rank.
    encoder = replace(config.encoder, drop_path=0.0)
    changes = {"centring": centring, "parallel": parallel, "learning_rate": 0.01}
    return replace(config, encoder=encoder, **changes), room["RandomSource"]()


def views_of_step(config, source, step):
    subjects = source.draw(step, N_SUBJECTS, seed=1)
    generator = seeded_generator(2, step)
    drawn = DrawnViews.draw(
        config.views, config.encoder, subjects, step=step, generator=generator
    )
    return drawn.apply(subjects, config.encoder)


def part_of(views, rank, n_ranks):
    """Select the subjects of one rank."""
    rows = slice(rank * N_SUBJECTS // n_ranks, (rank + 1) * N_SUBJECTS // n_ranks)
    groups = [
        replace(
            group, **{k: v[:, rows] for k, v in vars(group).items() if v is not None}
        )
        for group in (views.global_views, views.local_views)
    ]
    return Views(*groups)


def train(rank, n_ranks, centring, parallel):
    """Take a few steps; return the losses and all weights."""
    torch.set_num_threads(1)
    config, source = make_config(centring, parallel)
    torch.manual_seed(0)
    model = wrap_for_ranks(SelfDistillation(config, 3), config)
    optimizer = build_optimizer(unwrapped(model.student), config)
    losses = []
    for step in range(N_STEPS):
        views = part_of(views_of_step(config, source, step), rank, n_ranks)
        optimizer.zero_grad()
        terms, _, _ = model(views, teacher_temperature=0.25)
        terms.total.backward()
        nn.utils.clip_grad_norm_(model.student.parameters(), 0.5)
        optimizer.step()
        model.update_teacher(0.9)
        losses.append(torch.stack(terms).detach())
    weights = {
        name.replace("module.", ""): whole_tensor(value)
        for name, value in model.state_dict().items()
    }
    return torch.stack(losses), weights


def train_and_save(rank, folder):
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    for case in CASES:
        losses, weights = train(rank, 2, *case)
        dist.all_reduce(losses)
        if rank == 0:
            torch.save((losses / 2, weights), folder / f"{'-'.join(case)}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder with the results of two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("centring", "parallel"), CASES)
def test_two_ranks_learn_what_one_does_with_all_subjects(centring, parallel, folder):
    expected_losses, expected = train(0, 1, centring, "ddp")
    path = folder / f"{centring}-{parallel}.pt"
    losses, weights = torch.load(path, weights_only=True)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-4, atol=1e-5)
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        # AdamW turns rounding of tiny gradients into steps of its own size.
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=3e-4)


if __name__ == "__main__":
    train_and_save(int(sys.argv[1]), Path(sys.argv[2]))
    # On a busy machine torch 2.13 sometimes aborts while the interpreter stops
    # the threads of its process groups, long after the result was written.
    os._exit(0)
