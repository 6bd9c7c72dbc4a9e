"""Batches of training subjects, the protocol of what provides them, and its seeds."""

__all__ = ["SubjectBatch", "SubjectSource", "derive_seed", "seeded_generator"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Generator, Tensor


@dataclass(frozen=True, eq=False)
class SubjectBatch:
    """Normalised volumes of B subjects in A acquisitions each."""

    volumes: Tensor  # B A M I J K, zeros where a modality is absent
    present: Tensor  # bool B A M: modalities of each acquisition
    foreground: Tensor  # B I J K, 1 in the foreground and 0 outside
    targets: Tensor | None = None  # B R I J K: anatomy targets of each voxel

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along each axis."""
        size_i, size_j, size_k = self.volumes.shape[-3:]
        return size_i, size_j, size_k

    def to(self, device: torch.device) -> "SubjectBatch":
        """Return the batch on another device."""
        targets = None if self.targets is None else self.targets.to(device)
        parts = (self.volumes, self.present, self.foreground)
        volumes, present, foreground = (part.to(device) for part in parts)
        return SubjectBatch(volumes, present, foreground, targets)

    def split(self, n_parts: int) -> list["SubjectBatch"]:
        """Split the subjects into batches of equal size that share memory with it."""
        tensors = (self.volumes, self.present, self.foreground)
        chunks = [tensor.chunk(n_parts) for tensor in tensors]
        targets = (
            [None] * n_parts if self.targets is None else self.targets.chunk(n_parts)
        )
        return [SubjectBatch(*part) for part in zip(*chunks, targets, strict=True)]


class SubjectSource(Protocol):
    """What provides training subjects: a store or a simulation."""

    modalities: tuple[str, ...]  # BIDS suffixes, in the order of the volumes
    shape: tuple[int, int, int]  # voxels I, J, K of a volume
    targets: tuple[str, ...]  # names of the R anatomy targets, if any
    tissues: tuple[str, ...]  # targets that are fractions of a voxel and sum to 1
    target_weights: tuple[float, ...]  # in the anatomy objective
    preprocessing: Mapping[str, Any]  # from Preprocessor.to_dict

    def draw(
        self,
        step: int,
        n_subjects: int,
        *,
        seed: int,
        process: int = 0,
        n_processes: int = 1,
    ) -> SubjectBatch:
        """Return the `n_subjects` of one process in a step (from 0).

        The batch is a function of the arguments alone, so that a resumed run draws
        what an uninterrupted one would. `seed` is the same in all processes, which
        split the subjects of a step between them.
        """
        ...


def derive_seed(*numbers: int) -> int:
    """Mix non-negative integers, such as seed, step and rank, into a seed below 2**63.

    >>> derive_seed(0, 1) == derive_seed(0, 1), derive_seed(0, 1) == derive_seed(1, 0)
    (True, False)
    """
    words = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def seeded_generator(*numbers: int) -> Generator:
    """Return a generator on the CPU, seeded with `derive_seed`."""
    return Generator().manual_seed(derive_seed(*numbers))
