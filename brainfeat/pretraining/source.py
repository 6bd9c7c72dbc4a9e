"""Batches of training subjects, and the protocol of what provides them."""

__all__ = ["SubjectBatch", "SubjectSource"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SubjectBatch:
    """Volumes of B subjects in A acquisitions each.

    Parameters
    ----------
    volumes : Tensor of shape (B, A, M, I, J, K)
        Normalised volumes from `Preprocessor`; zeros where a modality is absent.
    present : bool Tensor of shape (B, A, M)
        Modalities of each acquisition.
    foreground : Tensor of shape (B, I, J, K)
        1 in the foreground, 0 outside.
    targets : Tensor of shape (B, R, I, J, K), optional
        Anatomy targets of each voxel.
    """

    volumes: Tensor
    present: Tensor
    foreground: Tensor
    targets: Tensor | None = None

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
    """What provides training subjects: a store or a simulation.

    Attributes
    ----------
    modalities : tuple of str
        BIDS suffixes, in the order of the volumes.
    shape : tuple of int (I, J, K)
        Voxels of a volume.
    targets : tuple of str
        Names of the R anatomy targets; empty without known anatomy.
    tissues : tuple of str
        Targets that are fractions of a voxel and sum to one in the brain.
    target_weights : tuple of float
        Weight of each target in the anatomy objective.
    preprocessing : mapping
        How the volumes were made, from ``Preprocessor.to_dict``.
    """

    modalities: tuple[str, ...]
    shape: tuple[int, int, int]
    targets: tuple[str, ...]
    tissues: tuple[str, ...]
    target_weights: tuple[float, ...]
    preprocessing: Mapping[str, Any]

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
