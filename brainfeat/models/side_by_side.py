"""Work of an encoder on several subjects at once, each with cores of its own."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import joblib
import torch

from brainfeat.workers import Prefetch

__all__ = [
    "MOST_SEGMENTED_AT_ONCE",
    "count_encoders",
    "share_cores",
    "side_by_side",
    "use_cores",
]

Item = TypeVar("Item")
Result = TypeVar("Result")

# More would hold up each other by the interpreter's lock, and need memory each.
_MOST_AT_ONCE = 8
MOST_SEGMENTED_AT_ONCE = 4  # whose chances of all classes need much more of it


def side_by_side(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    device: torch.device,
    n_most: int = _MOST_AT_ONCE,
    readers: Prefetch[Any, Any] | None = None,
) -> Prefetch[Item, Result]:
    """Apply a function that computes on a device to items, in threads.

    On a CPU each thread does the products of its own items: threads that share a
    product wait for each other at every layer, and for whatever else has a core at
    that moment. An item that is alone has all cores.

    Parameters
    ----------
    function : callable
        Called with one item, in any thread.
    items : iterable
        Drawn one by one, in the calling thread.
    device : torch.device
        Where the function computes; there is one thread unless it is a CPU.
    n_most : int
        Upper limit of the threads.
    readers : Prefetch, optional
        Whose threads need a core each meanwhile.

    Returns
    -------
    Prefetch
        Results in order.
    """
    n_threads, n_encoders = torch.get_num_threads(), count_encoders(device, n_most)

    def call(item: Item) -> Result:
        n_reading = 0 if readers is None else readers.n_busy
        n_cores = share_cores(n_threads, n_reading, results.n_busy)
        with use_cores(device, n_cores, n_threads):
            return function(item)

    results = Prefetch(call, items, n_threads=n_encoders, n_ahead=n_encoders)
    return results


def count_encoders(device: torch.device, n_most: int = _MOST_AT_ONCE) -> int:
    """Choose how many threads compute side by side.

    Parameters
    ----------
    device : torch.device
        Where they compute.
    n_most : int
        Upper limit.

    Returns
    -------
    int
        Number of threads; one unless the device is a CPU.
    """
    if device.type != "cpu":
        return 1
    return min(torch.get_num_threads(), n_most)


def share_cores(n_threads: int, n_reading: int, n_encoders: int) -> int:
    """Divide the cores that other threads leave among encoders.

    Parameters
    ----------
    n_threads : int
        Threads that PyTorch may use.
    n_reading : int
        Threads that need a core each.
    n_encoders : int
        Threads that encode, and divide what is left.

    Returns
    -------
    int
        Threads for one encoder; at least one.
    """
    n_free = min(n_threads, int(joblib.cpu_count()) - n_reading)
    return max(1, n_free // max(1, n_encoders))


@contextmanager
def use_cores(device: torch.device, n_cores: int, n_threads: int) -> Iterator[None]:
    """Let PyTorch's products in the calling thread use some of the cores only.

    Parameters
    ----------
    device : torch.device
        Where the encoder runs; nothing is done unless it is a CPU.
    n_cores : int
        Threads of a product meanwhile.
    n_threads : int
        Threads of a product afterwards, and in threads that begin later.

    Yields
    ------
    None
        While the limit holds.
    """
    if device.type != "cpu":
        yield
        return
    torch.set_num_threads(n_cores)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
