import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from brainfeat.pretraining.losses import (
    MovingAverageCentring,
    SinkhornKnopp,
    infonce_loss,
    koleo_loss,
)
from brainfeat.pretraining.ranks import (
    all_ranks_mean,
    all_ranks_sum,
    gather_rows,
    logsumexp_over_ranks,
    rank,
    world_size,
)

# Two ranks each take half of the rows, and write their results to files.
_PROCESS = """
import sys
import torch
import torch.distributed as dist
from brainfeat.pretraining.losses import MovingAverageCentring, SinkhornKnopp
from brainfeat.pretraining.losses import infonce_loss, koleo_loss
from brainfeat.pretraining.ranks import (
    all_ranks_mean, all_ranks_sum, gather_rows, logsumexp_over_ranks, rank, world_size
)

torch.set_num_threads(1)
folder, number = sys.argv[1], int(sys.argv[2])
dist.init_process_group(
    "gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2
)
rows, other, logits = torch.load(f"{folder}/input.pt")
half = len(rows) // 2
mine = slice(number * half, (number + 1) * half)
logits = logits[:4] if number == 0 else logits[4:]
inputs = [part[mine].clone().requires_grad_() for part in (rows, other)]
losses = {
    "koleo": lambda first, second: koleo_loss(first),
    "infonce": lambda first, second: infonce_loss(first, second, temperature=0.3),
}
answers = {
    "rank": (rank(), world_size()),
    "gathered": gather_rows(rows[mine]),
    "sum": all_ranks_sum(rows[mine]),
    "mean": all_ranks_mean(rows[mine]),
    "logsumexp": logsumexp_over_ranks(logits),
    "all_on_one": logsumexp_over_ranks(logits[: 4 * (1 - number)]),
    "sinkhorn": SinkhornKnopp(5)(logits, temperature=0.4),
}
centring = MovingAverageCentring(5)
centring(logits, temperature=0.4)
answers["center"] = centring.center
for name, loss in losses.items():
    value = loss(*inputs)
    gradients = torch.autograd.grad(value, inputs, allow_unused=True)
    answers[name] = (value.detach(), gradients)
torch.save(answers, f"{folder}/{number}.pt")
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def inputs():
    """Rows of two views of six subjects, and ten samples' logits."""
    generator = torch.Generator().manual_seed(7)
    shapes = ((6, 3), (6, 3), (10, 5))
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.fixture(scope="module")
def answers(inputs, tmp_path_factory):
    """Results of each of two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.save(inputs, folder / "input.pt")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, str(folder), str(number)],
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
        )
        for number in range(2)
    ]
    messages = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], messages
    return [torch.load(folder / f"{number}.pt") for number in range(2)]


def test_one_process_communicates_nothing(inputs):
    rows = inputs[0].clone().requires_grad_()
    assert (rank(), world_size()) == (0, 1)
    assert gather_rows(rows) is rows
    for reduce in (all_ranks_sum, all_ranks_mean):
        reduced = reduce(rows)
        assert torch.equal(reduced, rows)
        assert not reduced.requires_grad
        assert reduced.data_ptr() != rows.data_ptr()
    torch.testing.assert_close(
        logsumexp_over_ranks(rows.detach()), rows.detach().exp().sum(0)[None].log()
    )


@pytest.mark.slow
def test_processes_know_their_rank(answers):
    assert [answer["rank"] for answer in answers] == [(0, 2), (1, 2)]


@pytest.mark.slow
def test_every_rank_gets_the_rows_of_all(inputs, answers):
    rows = inputs[0]
    for answer in answers:
        assert torch.equal(answer["gathered"], rows)
        torch.testing.assert_close(answer["sum"], rows[:3] + rows[3:])
        torch.testing.assert_close(answer["mean"], (rows[:3] + rows[3:]) / 2)


@pytest.mark.slow
def test_logsumexp_is_that_of_all_rows_however_they_are_split(inputs, answers):
    logits = inputs[2]
    for answer in answers:
        torch.testing.assert_close(
            answer["logsumexp"], logits.logsumexp(0, keepdim=True)
        )
        torch.testing.assert_close(
            answer["all_on_one"], logits[:4].logsumexp(0, keepdim=True)
        )


@pytest.mark.slow
def test_assignments_of_two_ranks_equal_those_of_one(inputs, answers):
    logits = inputs[2]
    torch.testing.assert_close(
        torch.cat([answer["sinkhorn"] for answer in answers]),
        SinkhornKnopp(5)(logits, temperature=0.4),
    )
    centring = MovingAverageCentring(5)
    centring(logits, temperature=0.4)
    for answer in answers:
        torch.testing.assert_close(answer["center"], centring.center)


@pytest.mark.parametrize("name", ["koleo", "infonce"])
@pytest.mark.slow
def test_mean_loss_and_gradient_of_two_ranks_equal_those_of_one(name, inputs, answers):
    first, second = (part.clone().requires_grad_() for part in inputs[:2])
    if name == "koleo":
        loss = koleo_loss(first)
    else:
        loss = infonce_loss(first, second, temperature=0.3)
    expected = torch.autograd.grad(loss, (first, second), allow_unused=True)
    values = torch.stack([answer[name][0] for answer in answers])
    torch.testing.assert_close(values.mean(), loss.detach())
    for number, gradient in enumerate(expected):
        parts = [answer[name][1][number] for answer in answers]
        if gradient is None:
            assert parts == [None, None]
        else:
            # Training averages gradients over processes.
            torch.testing.assert_close(torch.cat(parts) / 2, gradient)
