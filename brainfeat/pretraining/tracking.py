"""How a run reports its progress: a function that wraps each stream of work."""

__all__ = ["Tracker", "untracked"]

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Tracker(Protocol):
    """A function that reports the items of a stream."""

    def __call__(
        self, items: Iterable[T], *, total: int, description: str, n_before: int = 0
    ) -> Iterator[T]:
        """Yield the items unchanged, and report each.

        An earlier run did `n_before` items of the `total`.
        """
        ...


def untracked(
    items: Iterable[T], *, total: int, description: str, n_before: int = 0
) -> Iterator[T]:
    """Report nothing."""
    del total, description, n_before
    yield from items
