import threading
from concurrent.futures import ThreadPoolExecutor

import joblib
import pytest
import torch

from brainfeat.models import threads as threads_module
from brainfeat.models.threads import (
    count_threads,
    divide_cores,
    limit_torch_threads,
    map_in_threads,
)

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("n_busy", "n_encoders", "expected"),
    [(0, 1, 4), (1, 1, 4), (3, 1, 3), (9, 1, 1), (0, 2, 2), (3, 2, 1), (0, 8, 1)],
)
def test_computing_threads_divide_the_cores_that_readers_leave(
    monkeypatch, n_busy, n_encoders, expected
):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 6)
    assert divide_cores(4, n_busy, n_encoders) == expected


def test_limit_holds_in_the_calling_thread_only():
    before = torch.get_num_threads()

    def count():
        with limit_torch_threads(CPU, 3, before):
            return torch.get_num_threads()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(count).result() == 3
    assert torch.get_num_threads() == before
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == before
    with limit_torch_threads(CUDA, 3, before):
        assert torch.get_num_threads() == before


def test_only_a_cpu_has_several_threads():
    assert count_threads(CPU) == min(torch.get_num_threads(), 8)
    assert count_threads(CUDA) == 1


def test_two_items_divide_the_cores_and_a_single_one_gets_all(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 4)
    monkeypatch.setattr(threads_module, "count_threads", lambda *_: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: seen.append(n))
    seen, both = [], threading.Barrier(2, timeout=30)
    with map_in_threads(lambda _: both.wait(), range(8), device=CPU) as results:
        list(results)
    assert 2 in seen  # the second item starts while the first runs
    seen.clear()
    with map_in_threads(abs, [-1], device=CPU) as results:
        assert list(results) == [1]
    assert seen == [4, 4]
