"""What a source of training data hands to the views."""

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
        Normalised volumes as `Preprocessor` gives them; zeros where a modality
        is absent.
    present : bool Tensor of shape (B, A, M)
        Which modalities an acquisition has.
    foreground : Tensor of shape (B, I, J, K)
        1 in the foreground, 0 outside.
    truth : Tensor of shape (B, R, I, J, K), optional
        Known quantities of each voxel.
    """

    volumes: Tensor
    present: Tensor
    foreground: Tensor
    truth: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of a volume along each axis."""
        size_i, size_j, size_k = self.volumes.shape[-3:]
        return size_i, size_j, size_k

    def to(self, device: torch.device) -> "SubjectBatch":
        """Return the batch on another device."""
        truth = None if self.truth is None else self.truth.to(device)
        parts = (self.volumes, self.present, self.foreground)
        volumes, present, foreground = (part.to(device) for part in parts)
        return SubjectBatch(volumes, present, foreground, truth)

    def split(self, n_parts: int) -> list["SubjectBatch"]:
        """Part the subjects into batches of equal size.

        Parameters
        ----------
        n_parts : int
            Number of batches; divides the number of subjects.

        Returns
        -------
        list of SubjectBatch
            Views of the same memory, in order.
        """
        tensors = (self.volumes, self.present, self.foreground)
        chunks = [tensor.chunk(n_parts) for tensor in tensors]
        truths = [None] * n_parts if self.truth is None else self.truth.chunk(n_parts)
        return [SubjectBatch(*part) for part in zip(*chunks, truths, strict=True)]


class SubjectSource(Protocol):
    """Where subjects come from: a store, or a simulation.

    Attributes
    ----------
    modalities : tuple of str
        BIDS suffixes, in the order of the volumes.
    shape : tuple of int (I, J, K)
        Voxels of a volume.
    quantities : tuple of str
        Names of the R quantities of the truth; empty without truth.
    tissues : tuple of str
        Those that are shares of a voxel and sum to one in the brain.
    emphasis : tuple of float
        Weight of each quantity in the anatomy objective.
    preprocessing : mapping
        How the volumes were made, as ``Preprocessor.to_dict`` gives it.
    """

    modalities: tuple[str, ...]
    shape: tuple[int, int, int]
    quantities: tuple[str, ...]
    tissues: tuple[str, ...]
    emphasis: tuple[float, ...]
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
        """Return the subjects that one process has in a step.

        Parameters
        ----------
        step : int
            Number of the step, from 0; any order of calls is allowed.
        n_subjects : int
            Number of subjects B of each process.
        seed : int
            Seed of the run, the same in all processes.
        process, n_processes : int
            Which process it is, from 0, and how many train together: they part the
            subjects of a step among them.

        Returns
        -------
        SubjectBatch
            A function of the arguments alone, so that a resumed run sees what an
            uninterrupted one would have seen.
        """
        ...
