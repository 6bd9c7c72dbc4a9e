"""Encode each modality of a subject alone, and average over those present."""

__all__ = ["SingleModalities", "average_modalities"]

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SingleModalities:
    """The modalities that are present, of all subjects of a batch, one a row."""

    shape: tuple[int, int]  # subjects and modalities
    rows: Tensor  # (n,), flat index of each

    @classmethod
    def of(cls, volumes: Tensor, present: Tensor | None) -> Self:
        """Find the modalities of volumes (B, M, ...) that are `present` (B, M)."""
        shape = (volumes.shape[0], volumes.shape[1])
        if present is None:
            return cls(shape, torch.arange(shape[0] * shape[1], device=volumes.device))
        return cls(shape, present.flatten().nonzero()[:, 0])

    def take(self, values: Tensor) -> Tensor:
        """Return the rows of values (B, M, ...): (n, ...)."""
        return values.flatten(0, 1)[self.rows]

    def take_subjects(self, values: Tensor) -> Tensor:
        """Return the values (B, ...) of the subject of each row: (n, ...)."""
        return values[self.rows // self.shape[1]]

    def restore(self, values: Tensor) -> Tensor:
        """Arrange values (n, ...) as (B, M, ...), zero for missing modalities."""
        n_rows = self.shape[0] * self.shape[1]
        restored = values.new_zeros(n_rows, *values.shape[1:])
        restored = restored.index_copy(0, self.rows, values)
        return restored.reshape(*self.shape, *values.shape[1:])


def average_modalities(tokens: Tensor, present: Tensor | None) -> Tensor:
    """Average tokens (B, M, ...) over the modalities that are present: (B, ...).

    Tokens of missing modalities are zero.
    """
    if tokens.shape[1] == 1:
        return tokens[:, 0]
    if present is None:
        return tokens.mean(1)
    counts = present.sum(1).clamp(min=1).to(tokens.dtype)
    return tokens.sum(1) / counts.reshape(-1, *[1] * (tokens.ndim - 2))
