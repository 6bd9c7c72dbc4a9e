import threading
from concurrent.futures import ThreadPoolExecutor

import joblib
import pytest
import torch

from brainfeat.models import side_by_side as side_by_side_module
from brainfeat.models.side_by_side import (
    count_encoders,
    share_cores,
    side_by_side,
    use_cores,
)

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("n_busy", "n_encoders", "expected"),
    [(0, 1, 4), (1, 1, 4), (3, 1, 3), (9, 1, 1), (0, 2, 2), (3, 2, 1), (0, 8, 1)],
)
def test_encoders_divide_what_busy_threads_leave(
    monkeypatch, n_busy, n_encoders, expected
):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 6)
    assert share_cores(4, n_busy, n_encoders) == expected


def test_cores_are_used_in_one_thread_only():
    before = torch.get_num_threads()

    def count():
        with use_cores(CPU, 3, before):
            return torch.get_num_threads()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(count).result() == 3
    assert torch.get_num_threads() == before
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == before
    with use_cores(CUDA, 3, before):
        assert torch.get_num_threads() == before


def test_only_a_cpu_encodes_side_by_side():
    assert count_encoders(CPU) == min(torch.get_num_threads(), 8)
    assert count_encoders(CUDA) == 1


def test_two_divide_the_cores_and_one_alone_has_all(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 4)
    monkeypatch.setattr(side_by_side_module, "count_encoders", lambda *_: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: seen.append(n))
    seen, both = [], threading.Barrier(2, timeout=30)
    with side_by_side(lambda _: both.wait(), range(8), device=CPU) as results:
        list(results)
    assert 2 in seen  # whoever comes second finds the first at work
    seen.clear()
    with side_by_side(abs, [-1], device=CPU) as results:
        assert list(results) == [1]
    assert seen == [4, 4]
