"""Work that threads do ahead of the one that uses it, in order and bounded."""

__all__ = ["Prefetch"]

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Prefetch(Generic[Item, Result]):
    """Apply a function to items in threads, a few items ahead of the results.

    Items are drawn in the calling thread, as they are needed, so that neither
    items nor results pile up. On leaving the context no thread goes on. Threads are
    enough: what is done in them lets go of the interpreter lock.

    Parameters
    ----------
    function : callable
        Called with one item, in any thread.
    items : iterable
        Drawn one by one.
    n_threads : int
        Calls that run side by side.
    n_ahead : int
        Items that are in work or done beyond the last result.

    Examples
    --------
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
        """Threads that are at work now."""
        # A copy, since other threads may ask.
        waiting = sum(not future.done() for future in self._futures.copy())
        return min(self._n_threads, waiting)

    def __iter__(self) -> Iterator[Result]:
        self._submit(self._n_ahead)
        while self._futures:
            # Taken only when it is done, since it counts as busy until then.
            result = self._futures[0].result()
            self._futures.popleft()
            # Given at once: the next item may take long to come.
            yield result
            self._submit(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, n_items: int) -> None:
        for item in islice(self._items, n_items):
            self._futures.append(self._pool.submit(self._function, item))
