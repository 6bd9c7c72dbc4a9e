"""Data made ahead of the training, in a thread."""

__all__ = ["Prefetcher"]

import queue
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")


class Prefetcher(Generic[Item]):
    """Make items for numbers in turn, a few ahead of their use.

    PyTorch lets go of the interpreter lock inside its operations, so a thread is
    enough to draw data while the network trains.

    Parameters
    ----------
    make : callable
        Turns a number into an item.
    start, stop : int
        First number, and the one after the last.
    ahead : int
        Largest number of items that wait; 0 makes each when it is asked for, without
        a thread.

    Examples
    --------
    >>> with Prefetcher(lambda number: number**2, 2, 5, ahead=2) as items:
    ...     list(items)
    [4, 9, 16]
    """

    def __init__(
        self, make: Callable[[int], Item], start: int, stop: int, *, ahead: int = 2
    ) -> None:
        self._make = make
        self._numbers = range(start, stop)
        self._ahead = ahead
        self._items: queue.Queue[Item | BaseException] = queue.Queue(ahead)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Self:
        if self._ahead:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        while self._thread.is_alive():
            # A worker that waits for room must be let go to see the flag.
            self._drain()
            self._thread.join(timeout=0.05)

    def __iter__(self) -> Iterator[Item]:
        """Give the items in order; an error of `make` is raised here."""
        if not self._ahead:
            yield from map(self._make, self._numbers)
            return
        for _ in self._numbers:
            item = self._items.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    def _work(self) -> None:
        try:
            for number in self._numbers:
                item = self._make(number)
                if self._stopped.is_set():
                    return
                self._items.put(item)
        except BaseException as error:
            self._items.put(error)

    def _drain(self) -> None:
        while not self._items.empty():
            self._items.get_nowait()
