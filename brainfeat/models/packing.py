"""Pack slabs without background: sequences of different lengths."""

__all__ = ["Group", "Packing"]

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Self

import torch
from torch import Tensor

# A slab shorter than this fraction of the longest in its group starts the next one:
# more groups need more calls, fewer need more padding. A GPU waits for calls, and
# takes all slabs as one group.
_MIN_LENGTH_IN_GROUP = {"cpu": 0.95}


class Group(NamedTuple):
    """Consecutive rows of packed tokens: slabs of about equal length."""

    start: int  # first row
    n_slabs: int
    length: int  # rows of each slab
    key_mask: Tensor | None  # (n_slabs, 1, 1, length), rows with tokens; None if all

    @property
    def stop(self) -> int:
        """First row of the next group."""
        return self.start + self.n_slabs * self.length

    def rows_of(self, tokens: Tensor) -> Tensor:
        """Return this group's rows (n_slabs, length, d) of packed tokens (T, d)."""
        return tokens[self.start : self.stop].reshape(self.n_slabs, self.length, -1)


@dataclass(frozen=True, eq=False)
class Packing:
    """Rows of the foreground's tokens, one slab after the other, the longest first.

    Within a group all slabs are padded to the longest, so that its tokens are one
    array; attention ignores the padding. Slabs without foreground have no rows.
    """

    shape: tuple[int, int, int, int]  # patches of all slabs: B S h w
    n_prefix: int  # class and register tokens of a slab, before its patches
    patches: Tensor  # (P,), flat index of each foreground patch
    slabs: Tensor  # (K,), flat index of each slab with foreground
    patch_rows: Tensor  # (P,), row of each foreground patch
    prefix_rows: Tensor  # (K, n_prefix), rows of class and register tokens
    row_slabs: Tensor  # (T,), index into `slabs` of each row
    groups: tuple[Group, ...]  # all rows, in order

    @classmethod
    def of(cls, foreground: Tensor, n_prefix: int) -> Self:
        """Pack the patches of a boolean foreground (B, S, h, w)."""
        flags = foreground.flatten(2).flatten(0, 1)  # BS hw
        counts, order = flags.sum(1).sort(descending=True, stable=True)
        n_kept = int((counts > 0).sum())
        slabs, lengths = order[:n_kept], counts[:n_kept] + n_prefix
        groups = _group(lengths)
        device = foreground.device
        repeated = [g.length for g in groups for _ in range(g.n_slabs)]
        padded = torch.tensor(repeated, dtype=torch.long, device=device)
        starts = padded.cumsum(0) - padded  # K
        kept = flags[slabs]  # K hw
        # Slab by slab, in the order of their patches.
        slab_indices, indices = kept.nonzero(as_tuple=True)
        rank = kept.cumsum(1)[kept] - 1
        return cls(
            shape=(*foreground.shape,),
            n_prefix=n_prefix,
            patches=slabs[slab_indices] * flags.shape[1] + indices,
            slabs=slabs,
            patch_rows=starts[slab_indices] + n_prefix + rank,
            prefix_rows=starts[:, None] + torch.arange(n_prefix, device=device),
            row_slabs=torch.arange(n_kept, device=device).repeat_interleave(padded),
            groups=groups,
        )

    def pack(self, prefix: Tensor, patches: Tensor) -> Tensor:
        """Arrange prefix (K, n_prefix, D) and patch tokens (P, D) in rows (T, D)."""
        rows = patches.new_zeros(len(self.row_slabs), patches.shape[-1])
        rows = rows.index_copy(0, self.prefix_rows.flatten(), prefix.flatten(0, 1))
        return rows.index_copy(0, self.patch_rows, patches)

    def unpack(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return prefix (B, S, n_prefix, D) and patch tokens (B, S, h, w, D)."""
        # Zero in slabs without foreground and in the background.
        n_rows, n_slabs, _, _ = self.shape
        prefix = rows.new_zeros(n_rows * n_slabs, self.n_prefix, rows.shape[-1])
        prefix = prefix.index_copy(0, self.slabs, rows[self.prefix_rows])
        return prefix.reshape(n_rows, n_slabs, *prefix.shape[1:]), self.spread(rows)

    def spread(self, rows: Tensor) -> Tensor:
        """Return the patch tokens (B, S, h, w, D) of rows, zero in the background."""
        patches = rows.new_zeros(math.prod(self.shape), rows.shape[-1])
        patches = patches.index_copy(0, self.patches, rows[self.patch_rows])
        return patches.reshape(*self.shape, -1)


def _group(lengths: Tensor) -> tuple[Group, ...]:
    """Divide slabs, the longest first, into groups of about equal length."""
    listed: list[int] = lengths.tolist()
    shortest = _MIN_LENGTH_IN_GROUP.get(lengths.device.type, 0.0)
    firsts = [0] if listed else []
    for index, length in enumerate(listed):
        if length < shortest * listed[firsts[-1]]:
            firsts.append(index)
    groups: list[Group] = []
    for first, stop in pairwise([*firsts, len(listed)]):
        longest, n_slabs = listed[first], stop - first
        key_mask = None
        if listed[stop - 1] < longest:
            positions = torch.arange(longest, device=lengths.device)
            key_mask = (positions < lengths[first:stop, None])[:, None, None]
        start = groups[-1].stop if groups else 0
        groups.append(Group(start, n_slabs, longest, key_mask))
    return tuple(groups)
