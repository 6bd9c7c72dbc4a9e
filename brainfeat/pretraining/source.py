"""Batches of training subjects, the protocol of what provides them, and its seeds."""

__all__ = [
    "PairedSource",
    "SubjectBatch",
    "SubjectSource",
    "derive_seed",
    "join_subjects",
    "seeded_generator",
]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Generator, Tensor


@dataclass(frozen=True, eq=False)
class SubjectBatch:
    """Normalised volumes of B subjects in A acquisitions each.

    Anatomy is known as `targets`, as `labels` or not at all.
    """

    volumes: Tensor  # B A M I J K, zeros where a modality is absent
    present: Tensor  # bool B A M: modalities of each acquisition
    # B A I J K, 1 in the foreground and 0 outside; B I J K is that of all acquisitions.
    foreground: Tensor
    targets: Tensor | None = None  # B R I J K: anatomy targets of each voxel
    labels: Tensor | None = None  # uint8 B A I J K: L labels, 0 for none
    members: Tensor | None = None  # B L R, 1 where a label or map is part of a target
    known: Tensor | None = None  # bool B R: targets that are known; None for all
    # The clean acquisition of each subject, for the objective of agreement; A is 1.
    reference: "SubjectBatch | None" = None

    def __post_init__(self) -> None:
        if self.foreground.ndim == 4:
            shared = self.foreground[:, None].expand(
                -1, self.volumes.shape[1], -1, -1, -1
            )
            object.__setattr__(self, "foreground", shared)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along each axis."""
        size_i, size_j, size_k = self.volumes.shape[-3:]
        return size_i, size_j, size_k

    def to(self, device: torch.device) -> "SubjectBatch":
        """Return the batch on another device, in float32.

        From pinned memory the copy is asynchronous, and half as long in float16.
        """

        def move(part: Tensor) -> Tensor:
            moved = part.to(device, non_blocking=True)
            return moved.float() if moved.dtype == torch.float16 else moved

        return _change(self, move)

    def split(self, n_parts: int) -> list["SubjectBatch"]:
        """Split the subjects into batches of equal size that share memory with it."""
        if len(self.volumes) % n_parts:
            raise ValueError(
                f"expected a multiple of {n_parts} subjects, got {len(self.volumes)}."
            )
        return [
            _change(self, lambda part, n=number: part.chunk(n_parts)[n])
            for number in range(n_parts)
        ]


class SubjectSource(Protocol):
    """What provides training subjects: a store or a simulation."""

    modalities: tuple[str, ...]  # BIDS suffixes, in the order of the volumes
    shape: tuple[int, int, int]  # voxels I, J, K of a volume
    targets: tuple[str, ...]  # names of the R anatomy targets, if any
    tissues: tuple[str, ...]  # targets that are fractions of a voxel and sum to 1
    structures: tuple[str, ...]  # further ones that the encoder is to read, any overlap
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


@runtime_checkable
class PairedSource(Protocol):
    """A source that knows several acquisitions of the same anatomy."""

    def draw_pairs(
        self,
        step: int,
        n_subjects: int,
        *,
        seed: int,
        process: int = 0,
        n_processes: int = 1,
    ) -> SubjectBatch:
        """Return two acquisitions of each subject, and the clean one as `reference`.

        They are of one visit, so that they show the same anatomy. The arguments are
        those of `SubjectSource.draw`.
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


def join_subjects(batches: Sequence[SubjectBatch]) -> SubjectBatch:
    """Join batches that have the same fields."""
    parts: dict[str, Any] = {}
    for item in fields(SubjectBatch):
        values = [getattr(batch, item.name) for batch in batches]
        if values[0] is not None:
            join = join_subjects if item.name == "reference" else torch.cat
            parts[item.name] = join(values)
    return SubjectBatch(**parts)


def _change(batch: SubjectBatch, change: Callable[..., Any]) -> SubjectBatch:
    """Change all tensors of a batch, also those of its reference."""
    parts = {field.name: getattr(batch, field.name) for field in fields(batch)}
    reference = parts.pop("reference")
    changed: dict[str, Any] = {
        n: None if p is None else change(p) for n, p in parts.items()
    }
    if reference is not None:
        changed["reference"] = _change(reference, change)
    return SubjectBatch(**changed)
