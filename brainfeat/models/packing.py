"""Slabs without their background: sequences of different lengths, side by side."""

__all__ = ["Group", "Packing"]

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Self

import torch
from torch import Tensor

# Slabs this much shorter than the longest of their group begin the next one: more
# groups are more calls, fewer are more padding.
_SHORTEST_IN_GROUP = 0.95


class Group(NamedTuple):
    """Neighbouring rows of packed tokens that are slabs of about equal length.

    Attributes
    ----------
    start : int
        First row.
    n_slabs, length : int
        Slabs, and rows of each.
    keys : bool Tensor of shape (n_slabs, 1, 1, length) or None
        Rows that hold tokens; None if all do.
    """

    start: int
    n_slabs: int
    length: int
    keys: Tensor | None

    @property
    def stop(self) -> int:
        """First row of the next group."""
        return self.start + self.n_slabs * self.length


@dataclass(frozen=True, eq=False)
class Packing:
    """Where the tokens of the foreground lie, one slab after the other.

    The longest slab comes first. Within a group all slabs are filled up to the
    longest of them, so that the tokens of a group are one array; what fills them is
    no key of attention and is dropped in the end. Slabs without foreground have no
    row at all.

    Parameters
    ----------
    shape : tuple of int (B, S, h, w)
        Patches of all slabs.
    n_prefix : int
        Class and register tokens of a slab, which come before its patches.
    patches : int Tensor of shape (P,)
        Flat index of each foreground patch.
    slabs : int Tensor of shape (K,)
        Flat index of each slab that has foreground, the longest first.
    patch_rows : int Tensor of shape (P,)
        Row of each foreground patch.
    prefix_rows : int Tensor of shape (K, n_prefix)
        Rows of each slab's class and register tokens.
    row_slabs : int Tensor of shape (T,)
        Which entry of ``slabs`` a row belongs to.
    groups : tuple of Group
        All rows, in order.
    """

    shape: tuple[int, int, int, int]
    n_prefix: int
    patches: Tensor
    slabs: Tensor
    patch_rows: Tensor
    prefix_rows: Tensor
    row_slabs: Tensor
    groups: tuple[Group, ...]

    @classmethod
    def of(cls, foreground: Tensor, n_prefix: int) -> Self:
        """Pack the patches of the foreground.

        Parameters
        ----------
        foreground : bool Tensor of shape (B, S, h, w)
            Patches that are encoded.
        n_prefix : int
            Class and register tokens of a slab.

        Returns
        -------
        Packing
            With the rows of all slabs that have foreground.
        """
        flags = foreground.flatten(2).flatten(0, 1)  # BS hw
        counts, order = flags.sum(1).sort(descending=True, stable=True)
        n_kept = int((counts > 0).sum())
        slabs, lengths = order[:n_kept], counts[:n_kept] + n_prefix
        groups = _group(lengths)
        device = foreground.device
        padded = torch.tensor(
            [g.length for g in groups for _ in range(g.n_slabs)],
            dtype=torch.long,
            device=device,
        )
        starts = padded.cumsum(0) - padded  # K
        kept = flags[slabs]  # K hw
        # Rows follow the slabs' own order of patches; they are listed slab by slab.
        places, indices = kept.nonzero(as_tuple=True)
        rank = kept.cumsum(1)[kept] - 1
        return cls(
            shape=(*foreground.shape,),
            n_prefix=n_prefix,
            patches=slabs[places] * flags.shape[1] + indices,
            slabs=slabs,
            patch_rows=starts[places] + n_prefix + rank,
            prefix_rows=starts[:, None] + torch.arange(n_prefix, device=device),
            row_slabs=torch.arange(n_kept, device=device).repeat_interleave(padded),
            groups=groups,
        )

    def pack(self, prefix: Tensor, patches: Tensor) -> Tensor:
        """Lay tokens out in rows.

        Parameters
        ----------
        prefix : Tensor of shape (K, n_prefix, D)
            Class and register tokens of the slabs that have foreground.
        patches : Tensor of shape (P, D)
            Tokens of the foreground.

        Returns
        -------
        Tensor of shape (T, D)
            Packed tokens; zero where slabs are filled up.
        """
        rows = patches.new_zeros(len(self.row_slabs), patches.shape[-1])
        rows = rows.index_copy(0, self.prefix_rows.flatten(), prefix.flatten(0, 1))
        return rows.index_copy(0, self.patch_rows, patches)

    def unpack(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Take tokens back to their places.

        Parameters
        ----------
        rows : Tensor of shape (T, D)
            Packed tokens.

        Returns
        -------
        prefix : Tensor of shape (B, S, n_prefix, D)
            Class and register tokens; zero in slabs without foreground.
        patches : Tensor of shape (B, S, h, w, D)
            Patch tokens; zero in the background.
        """
        n_rows, n_slabs, _, _ = self.shape
        prefix = rows.new_zeros(n_rows * n_slabs, self.n_prefix, rows.shape[-1])
        prefix = prefix.index_copy(0, self.slabs, rows[self.prefix_rows])
        return prefix.reshape(n_rows, n_slabs, *prefix.shape[1:]), self.spread(rows)

    def spread(self, rows: Tensor) -> Tensor:
        """Take patch tokens back to their places.

        Parameters
        ----------
        rows : Tensor of shape (T, D)
            Packed tokens.

        Returns
        -------
        Tensor of shape (B, S, h, w, D)
            Patch tokens; zero in the background.
        """
        patches = rows.new_zeros(math.prod(self.shape), rows.shape[-1])
        patches = patches.index_copy(0, self.patches, rows[self.patch_rows])
        return patches.reshape(*self.shape, -1)


def _group(lengths: Tensor) -> tuple[Group, ...]:
    """Part slabs, which come longest first, into groups of about equal length."""
    listed: list[int] = lengths.tolist()
    firsts = [0] if listed else []
    for place, length in enumerate(listed):
        if length < _SHORTEST_IN_GROUP * listed[firsts[-1]]:
            firsts.append(place)
    groups: list[Group] = []
    for first, stop in pairwise([*firsts, len(listed)]):
        longest, n_slabs = listed[first], stop - first
        keys = None
        if listed[stop - 1] < longest:
            places = torch.arange(longest, device=lengths.device)
            keys = (places < lengths[first:stop, None])[:, None, None]
        start = groups[-1].stop if groups else 0
        groups.append(Group(start, n_slabs, longest, keys))
    return tuple(groups)
