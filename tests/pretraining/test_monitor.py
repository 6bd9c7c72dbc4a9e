import logging

import pytest
import torch

from brainfeat.exceptions import TrainingError
from brainfeat.pretraining.monitor import Monitor, effective_rank, relative_entropy


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def spread_over(n_directions, n_rows=300, dim=24):
    """Rows that spread equally over some directions."""
    rows = noise(n_rows, n_directions)
    return torch.linalg.qr(rows - rows.mean(dim=0))[0] @ torch.eye(n_directions, dim)


@pytest.mark.parametrize("n_directions", [1, 3, 7, 24])
def test_effective_rank_counts_directions(n_directions):
    rows = spread_over(n_directions)
    assert effective_rank(rows) == pytest.approx(n_directions, rel=1e-3)


def test_effective_rank_ignores_offset_scale_and_rotation():
    rows = noise(40, 9)
    rotation = torch.linalg.qr(noise(9, 9, seed=1))[0]
    changed = 30 * rows @ rotation + 5
    assert effective_rank(changed) == pytest.approx(effective_rank(rows), rel=1e-4)


def test_effective_rank_is_at_most_the_number_of_rows_less_one():
    assert 3.5 < effective_rank(noise(5, 2000)) <= 4


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_equal_rows_have_rank_one(value):
    assert effective_rank(torch.full((30, 5), value)) == 1


def test_relative_entropy_goes_from_one_hot_to_uniform():
    decided = 100 * torch.eye(7)
    assert relative_entropy(decided, 0.1) == pytest.approx(0, abs=1e-6)
    assert relative_entropy(torch.zeros(3, 4, 7), 0.1) == pytest.approx(1)
    rising = [relative_entropy(noise(5, 7), t) for t in (0.1, 0.4, 2.0)]
    assert rising == sorted(rising)


def test_two_equal_probabilities_have_the_entropy_of_one_bit():
    logits = torch.tensor([[0.0, 0.0] + [-1000.0] * 6])
    assert relative_entropy(logits, 1.0) == pytest.approx(1 / 3)


def test_rank_uses_the_last_rows_only():
    monitor = Monitor(0)
    batches = noise(60, 9, 6)
    ranks = []
    for batch in batches:
        monitor.observe(batch)
        ranks.append(monitor.effective_rank())
    # 29 batches of 9 are the first to hold 256 rows.
    assert ranks[:28] == [None] * 28
    for last in (28, 29, 59):
        rows = batches[last - 28 : last + 1].flatten(0, 1)
        assert ranks[last] == pytest.approx(effective_rank(rows))


def test_rows_are_kept_without_their_gradient():
    monitor = Monitor(0)
    monitor.observe(torch.zeros(4, 3, requires_grad=True) * 2)
    assert not monitor._rows[0].requires_grad


def test_collapsed_embeddings_stop_the_run():
    monitor = Monitor(n_grace_steps=3)
    monitor.observe(torch.ones(256, 24) + 1e-3 * spread_over(1, 256))
    rank = monitor.effective_rank()
    for step in range(3):
        monitor.check_collapse(step, effective_rank=rank, teacher_entropy=0.0)
    with pytest.raises(TrainingError, match=r"step 3: collapse.*rank 1\.0.*koleo"):
        monitor.check_collapse(3, effective_rank=rank, teacher_entropy=0.5)


def test_one_hot_teacher_stops_the_run():
    entropy = relative_entropy(torch.eye(8)[:1].expand(30, -1), 0.01)
    with pytest.raises(TrainingError, match=r"collapse.*entropy.*teacher_temperature"):
        Monitor(0).check_collapse(0, effective_rank=None, teacher_entropy=entropy)


def test_healthy_values_give_no_warning(caplog):
    monitor = Monitor(0)
    monitor.observe(noise(256, 24))
    rank = monitor.effective_rank()
    with caplog.at_level(logging.WARNING):
        monitor.check_collapse(5, effective_rank=rank, teacher_entropy=0.5)
        monitor.check_collapse(6, effective_rank=None, teacher_entropy=None)
    assert not caplog.records


@pytest.mark.parametrize(
    ("rank", "entropy", "message"),
    [(5.0, 0.5, "effective rank is low, 5.0"), (20.0, 0.05, "entropy is low, 0.050")],
)
def test_beginning_collapse_gives_a_warning(caplog, rank, entropy, message):
    with caplog.at_level(logging.WARNING):
        Monitor(0).check_collapse(8, effective_rank=rank, teacher_entropy=entropy)
    (record,) = caplog.records
    assert message in record.getMessage()
    assert "step 8" in record.getMessage()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_number_stops_the_run(value):
    monitor = Monitor(99)
    monitor.check_finite(0, loss=1.0, gradient=0.0)
    with pytest.raises(TrainingError, match=r"step 1: gradient not finite"):
        monitor.check_finite(1, loss=1.0, gradient=value)


def test_a_warning_comes_again_only_after_a_recovery(caplog):
    monitor = Monitor(0)
    for step, rank in enumerate((5.0, 4.0, 20.0, 6.0, 7.0)):
        monitor.check_collapse(step, effective_rank=rank, teacher_entropy=None)
    assert caplog.messages == [
        "step 0: effective rank is low, 5.0.",
        "step 3: effective rank is low, 6.0.",
    ]
