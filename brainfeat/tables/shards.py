"""Parts of a run that jobs of an array do, each on its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from brainfeat.exceptions import InputError

__all__ = ["Shard"]

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """One of several parts of equal length.

    Parts lie one after the other, so that their tables joined in order are the table
    of the whole.

    Parameters
    ----------
    index : int
        Which part, from 1.
    count : int
        How many parts there are.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``I/N``.

        Parameters
        ----------
        text : str
            Such as ``"1/4"``.

        Returns
        -------
        Shard
            The part.

        Raises
        ------
        InputError
            If it is no such text, or ``I`` is not from 1 to ``N``.

        Examples
        --------
        >>> Shard.parse("4/4").take("abcdefghij")
        'hij'
        """
        index, slash, count = text.partition("/")
        if slash and index.isdecimal() and count.isdecimal():
            shard = cls(int(index), int(count))
            if 1 <= shard.index <= shard.count:
                return shard
        raise InputError(
            f"--shard: expected I/N with I from 1 to N, such as 1/4, got {text!r}."
        )

    def take(self, items: Sequence[Item]) -> Sequence[Item]:
        """Cut the part out.

        Parameters
        ----------
        items : sequence
            The whole, the same for every part.

        Returns
        -------
        sequence
            The part; empty if there are fewer items than parts.
        """
        start, stop = (
            len(items) * n // self.count for n in (self.index - 1, self.index)
        )
        return items[start:stop]

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"
