"""Threads that compute in parallel, each with its own cores."""

__all__ = [
    "count_threads",
    "divide_cores",
    "limit_torch_threads",
    "map_in_threads",
    "resolve_n_jobs",
]

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any, TypeVar

import joblib
import torch

from brainfeat.exceptions import ConfigError
from brainfeat.workers import Prefetch

Item = TypeVar("Item")
Result = TypeVar("Result")

# More threads would contend for the interpreter's lock, and each needs memory.
_MAX_THREADS = 8


def resolve_n_jobs(n_jobs: Any) -> int:
    """Return the number of threads, as scikit-learn does: -1 is one per core."""
    if n_jobs is not None and (not isinstance(n_jobs, Integral) or n_jobs == 0):
        raise ConfigError(
            "n_jobs: expected None, a positive integer, or -1 for one per core, "
            f"got {n_jobs!r}."
        )
    return int(joblib.effective_n_jobs(n_jobs))


def map_in_threads(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    device: torch.device,
    max_threads: int = _MAX_THREADS,
    readers: Prefetch[Any, Any] | None = None,
) -> Prefetch[Item, Result]:
    """Apply a function that computes on a device to items, in threads, in order.

    Items are drawn in the calling thread. There is one thread unless the device is a
    CPU; there each thread multiplies alone, since threads that share a product wait
    for each other at every layer. A single item gets all cores but those that the
    threads of `readers` need.
    """
    n_threads, n_workers = torch.get_num_threads(), count_threads(device, max_threads)

    def call(item: Item) -> Result:
        n_reading = 0 if readers is None else readers.n_busy
        n_cores = divide_cores(n_threads, n_reading, results.n_busy)
        with limit_torch_threads(device, n_cores, n_threads):
            return function(item)

    results = Prefetch(call, items, n_threads=n_workers, n_ahead=n_workers)
    return results


def count_threads(device: torch.device, max_threads: int = _MAX_THREADS) -> int:
    """Return how many threads compute in parallel: one unless the device is a CPU."""
    return min(torch.get_num_threads(), max_threads) if device.type == "cpu" else 1


def divide_cores(n_threads: int, n_reading: int, n_computing: int) -> int:
    """Return the cores of each computing thread; each reading thread needs one."""
    n_free = min(n_threads, int(joblib.cpu_count()) - n_reading)
    return max(1, n_free // max(1, n_computing))


@contextmanager
def limit_torch_threads(
    device: torch.device, n_cores: int, n_threads: int
) -> Iterator[None]:
    """On a CPU, let the calling thread use `n_cores`, then `n_threads` again."""
    if device.type != "cpu":
        yield
        return
    torch.set_num_threads(n_cores)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
