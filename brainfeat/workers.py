"""Threads that work ahead, and processes that end with their parent."""

__all__ = ["Prefetch", "end_with_parent"]

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Prefetch(Generic[Item, Result]):
    """Apply a function to items in threads, and yield the results in order.

    Items are drawn in the calling thread, at most `n_ahead` beyond the last result, so
    that neither items nor results accumulate. Leaving the context ends all threads.
    Threads suffice, since the work releases the interpreter lock.

    >>> with Prefetch(abs, [-1, 2, -3], n_threads=2, n_ahead=2) as results:
    ...     list(results)
    [1, 2, 3]
    """

    def __init__(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        n_threads: int,
        n_ahead: int,
    ) -> None:
        self._function = function
        self._items = iter(items)
        self._n_threads = n_threads
        self._n_ahead = n_ahead
        self._pool = ThreadPoolExecutor(n_threads, thread_name_prefix="brainfeat")
        self._futures: deque[Future[Result]] = deque()

    @property
    def n_busy(self) -> int:
        """Number of threads at work."""
        # A copy, since other threads may ask.
        waiting = sum(not future.done() for future in self._futures.copy())
        return min(self._n_threads, waiting)

    def __iter__(self) -> Iterator[Result]:
        self._submit(self._n_ahead)
        while self._futures:
            # Kept in the queue until it is done, since it counts as busy.
            result = self._futures[0].result()
            self._futures.popleft()
            # Yielded before the next item is drawn, which may take long.
            yield result
            self._submit(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, n_items: int) -> None:
        for item in islice(self._items, n_items):
            self._futures.append(self._pool.submit(self._function, item))


def end_with_parent() -> None:
    """End this process when its parent ends."""
    # A parent that is killed, as for want of memory, cannot end its children, which
    # would wait for work forever.
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
