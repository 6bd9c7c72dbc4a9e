"""A store of preprocessed volumes on disk, memory-mapped for training."""

__all__ = [
    "INDEX_NAME",
    "StoreIndex",
    "StoredScan",
    "VolumeStore",
    "used_fields",
]

import copy
import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brainfeat.exceptions import InputError, ModalityError, brief_reason
from brainfeat.pretraining.source import SubjectBatch, derive_seed
from brainfeat.pretraining.store_index import (
    INDEX_NAME,
    StoredScan,
    StoreIndex,
    used_fields,
)


class VolumeStore:
    """A source of subjects whose volumes `write_store` preprocessed.

    Subjects are shuffled anew in each epoch. A subject with several acquisitions
    gives two of them, so that objectives can compare them; `draw_pairs` gives two of
    one visit. The anatomy targets are the structures of the label maps. Of `modalities`
    only those are read, by default all; scans that have none of them are left out.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        modalities: Sequence[str] | None = None,
    ) -> None:
        self.folder, self.is_half = Path(folder), False
        self.index = StoreIndex.load(self.folder)
        if not self.index.scans:
            raise InputError(f"{self.folder}: the store is empty.")
        self.modalities = self._choose_modalities(modalities)
        self._columns = [self.index.modalities.index(name) for name in self.modalities]
        if not self.subjects:
            names = " or ".join(self.modalities)
            raise ModalityError(f"{self.folder}: no scan of the store has {names}.")
        self.preprocessing = self.index.preprocessing
        self.targets = self.index.structures.names
        self.tissues = self.index.structures.partition
        self.structures = tuple(n for n in self.targets if n not in self.tissues)
        self.target_weights = (1.0,) * len(self.targets)
        self.shape = self._check_arrays()

    @cached_property
    def subjects(self) -> dict[str, list[StoredScan]]:
        """Scans of each subject."""
        scans: dict[str, list[StoredScan]] = {}
        for scan in self.index.scans:
            if any(self._present(scan)):
                scans.setdefault(scan.subject, []).append(scan)
        return scans

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the index; arrays are named by the hash of their content."""
        scans = [used_fields(scan) for scan in self.index.scans]
        return hashlib.sha256(json.dumps(scans).encode()).hexdigest()

    @cached_property
    def n_acquisitions(self) -> int:
        """Acquisitions per subject in a batch: two if any subject has two."""
        return min(2, max(len(scans) for scans in self.subjects.values()))

    def draw(
        self,
        step: int,
        n_subjects: int,
        *,
        seed: int,
        process: int = 0,
        n_processes: int = 1,
    ) -> SubjectBatch:
        """Return the subjects of one process in a step, as in `SubjectSource`."""
        first = (step * n_processes + process) * n_subjects
        scans: list[StoredScan] = []
        for number, name in self._shuffled(first, n_subjects, seed):
            chosen = self.subjects[name], derive_seed(seed, number, 1)
            scans += _choose_scans(*chosen, self.n_acquisitions)
        return self._read(scans, self.n_acquisitions)

    def draw_pairs(
        self,
        step: int,
        n_subjects: int,
        *,
        seed: int,
        process: int = 0,
        n_processes: int = 1,
    ) -> SubjectBatch:
        """Return two scans of a visit of each subject, as in `PairedSource`.

        The reference is the visit's best scan, shown in one modality: not degraded, of
        the first modality, with the thinnest slices.
        """
        first = (step * n_processes + process) * n_subjects
        scans: list[StoredScan] = []
        references: list[StoredScan] = []
        for number, name in self._shuffled(first, n_subjects, seed):
            visits = self._visits[name]
            chosen = np.random.default_rng(derive_seed(seed, number, 2))
            visit = visits[int(chosen.integers(len(visits)))]
            scans += _choose_scans(visit, derive_seed(seed, number, 1), 2)
            references.append(min(visit, key=self._rank_as_reference))
        pairs = self._read(scans, 2)
        return replace(pairs, reference=_show_first(self._read(references, 1)))

    def select(self, modalities: Sequence[str]) -> "VolumeStore":
        """Return the same store with some of its modalities, in this order."""
        if tuple(modalities) == self.modalities:
            return self
        return VolumeStore(self.folder, modalities=modalities)

    def in_half_precision(self) -> "VolumeStore":
        """Return the same store with batches in float16, in memory that GPUs read."""
        store = copy.copy(self)
        store.is_half = True
        return store

    def load(self, names: Sequence[str]) -> SubjectBatch:
        """Return the first acquisition of each named subject."""
        return self.load_scans([self.subjects[name][0] for name in names])

    def load_scans(self, scans: Sequence[StoredScan]) -> SubjectBatch:
        """Return scans of the index, each as of a subject of its own."""
        return self._read([*scans], 1)

    @cached_property
    def _visits(self) -> dict[str, list[list[StoredScan]]]:
        """Scans of each visit of each subject."""
        grouped: dict[str, list[list[StoredScan]]] = {}
        for name, scans in self.subjects.items():
            visits: dict[str, list[StoredScan]] = {}
            for scan in scans:
                visits.setdefault(scan.visit, []).append(scan)
            grouped[name] = list(visits.values())
        return grouped

    def _shuffled(self, first: int, n: int, seed: int) -> Iterator[tuple[int, str]]:
        """Yield `n` numbers from `first`, and the subject that has each."""
        names = list(self.subjects)
        orders: dict[int, NDArray[np.int64]] = {}
        for number in range(first, first + n):
            epoch, position = divmod(number, len(names))
            if epoch not in orders:
                generator = np.random.default_rng(derive_seed(seed, epoch))
                orders[epoch] = generator.permutation(len(names))
            yield number, names[orders[epoch][position]]

    def _choose_modalities(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        stored = self.index.modalities
        absent = [name for name in wanted or () if name not in stored]
        if absent:
            raise ModalityError(
                f"{self.folder}: expected volumes of {' and '.join(absent)}, the store "
                f"has {', '.join(stored)}."
            )
        return stored if wanted is None else tuple(wanted)

    def _present(self, scan: StoredScan) -> tuple[bool, ...]:
        return tuple(scan.present[column] for column in self._columns)

    def _rank_as_reference(self, scan: StoredScan) -> tuple[bool, int, float]:
        """Order the scans of a visit, the best one first."""
        present = self._present(scan)
        first = present.index(True) if any(present) else 0
        return bool(scan.degradation), first, scan.thickness

    def _check_arrays(self) -> tuple[int, int, int]:
        """Return the shape of a volume; raise unless all arrays can have it."""
        # Copies have fewer modalities.
        scans = [scan for scan in self.index.scans if not scan.degradation]
        if not scans:
            raise InputError(f"{self.folder}: the store has no scan but copies.")
        first, *others = scans
        shape = self._open(first).shape
        n_stored = len(self.index.modalities)
        if len(shape) != 4 or shape[0] != n_stored + 1:
            raise InputError(
                f"{self.folder / first.file}: expected {n_stored} "
                f"modalities and the foreground, got an array of shape {shape}."
            )
        # Reports an incomplete copy now, not after hours of training.
        n_bytes = self._path(first).stat().st_size
        for scan in others:
            size = self._path(scan).stat().st_size
            if size != n_bytes:
                raise InputError(
                    f"{self.folder / scan.file}: expected {n_bytes} bytes as in the "
                    f"other arrays, got {size}; remove it, and preprocess "
                    f"{scan.subject} again."
                )
        return shape[1], shape[2], shape[3]

    def _read(self, scans: list[StoredScan], n_acquisitions: int) -> SubjectBatch:
        # Pinned, so that a GPU copies it while it computes.
        options: dict[str, Any] = {"dtype": torch.float32}
        if self.is_half:
            is_pinned = torch.cuda.is_available()
            options = {"dtype": torch.float16, "pin_memory": is_pinned}
        n, n_modalities = len(scans), len(self.modalities)
        volumes = torch.empty(n, n_modalities, *self.shape, **options)
        foreground = torch.empty(n, *self.shape, **options)
        for row, scan in enumerate(scans):
            if self.is_half and self._read_into(scan, volumes[row], foreground[row]):
                continue
            array = self._read_array(scan)  # M+1 I J K
            volumes[row].numpy()[:] = array[:-1]
            foreground[row].numpy()[:] = array[-1]
        present = torch.tensor([self._present(scan) for scan in scans])
        batch = SubjectBatch(
            volumes=volumes.unflatten(0, (-1, n_acquisitions)),
            present=present.unflatten(0, (-1, n_acquisitions)),
            foreground=foreground.unflatten(0, (-1, n_acquisitions)),
        )
        if not self.index.structures.names:
            return batch
        return self._add_labels(batch, scans)

    def _read_into(self, scan: StoredScan, volumes: Tensor, foreground: Tensor) -> bool:
        """Read an array that is stored as it is used; return whether it is.

        Straight into the memory that a GPU copies: a mapped file takes three times as
        long.
        """
        stored, columns = len(self.index.modalities), self._columns
        if scan.degradation or columns != [*range(stored)]:
            return False
        with self._path(scan).open("rb", buffering=0) as file:
            if file.read(len(self._header)) != self._header:
                return False
            parts = [volumes.numpy(), foreground.numpy()]
            return all(file.readinto(part.data) == part.nbytes for part in parts)

    @cached_property
    def _header(self) -> bytes:
        """First bytes of an array as `write_store` saves it."""
        content = io.BytesIO()
        shape = (len(self.index.modalities) + 1, *self.shape)
        layout = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(content, layout)
        return content.getvalue()

    def _read_array(self, scan: StoredScan) -> NDArray[np.float16]:
        array = self._open(scan)
        rows = [*self._columns, len(self.index.modalities)]
        if not scan.degradation:
            return array if rows == [*range(len(array))] else array[rows]
        shown = np.flatnonzero([*scan.present, True])
        if array.shape != (len(shown), *self.shape):
            raise InputError(
                f"{self.folder / scan.file}: expected {len(shown)} arrays of the grid "
                f"{self.shape}, got shape {array.shape}; remove it, and preprocess "
                f"{scan.subject} again."
            )
        full = np.zeros((len(scan.present) + 1, *self.shape), np.float16)
        full[shown] = array
        return full[rows]

    def _add_labels(self, batch: SubjectBatch, scans: list[StoredScan]) -> SubjectBatch:
        """Add the label maps; subjects without one have no known structure."""
        structures, n_acquisitions = self.index.structures, batch.present.shape[1]
        nothing = np.zeros(self.shape, np.uint8)
        labels = np.stack([self._open_labels(scan, nothing) for scan in scans])
        unknown = (False,) * len(structures.names)
        known = torch.tensor([scan.known or unknown for scan in scans])
        known = known.unflatten(0, (-1, n_acquisitions)).all(dim=1)
        members = torch.tensor(structures.members, dtype=torch.float32).T  # L R
        return replace(
            batch,
            labels=torch.from_numpy(labels).unflatten(0, (-1, n_acquisitions)),
            members=members.expand(len(known), -1, -1),
            known=known,
        )

    def _open_labels(
        self, scan: StoredScan, nothing: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        if not scan.labels:
            return nothing
        labels: NDArray[np.uint8] = self._open(replace(scan, file=scan.labels))
        return labels

    def _open(self, scan: StoredScan) -> NDArray[Any]:
        path = self._path(scan)
        try:
            array: NDArray[Any] = np.load(path, mmap_mode="r")
        except (ValueError, EOFError) as error:
            raise InputError(
                f"{path}: the array of {scan.subject} is damaged "
                f"({brief_reason(error)}); remove it, and preprocess it again."
            ) from error
        return array

    def _path(self, scan: StoredScan) -> Path:
        path = self.folder / scan.file
        if not path.is_file():
            raise InputError(f"{path}: array of {scan.subject} is missing.")
        return path


def _choose_scans(scans: list[StoredScan], seed: int, n: int) -> list[StoredScan]:
    """Choose acquisitions of a subject, repeated if there are too few."""
    order = np.random.default_rng(seed).permutation(len(scans))
    return [scans[order[number % len(scans)]] for number in range(n)]


def _show_first(batch: SubjectBatch) -> SubjectBatch:
    """Keep the first modality of each acquisition."""
    first = batch.present.int().cumsum(dim=-1) == 1
    present = batch.present & first
    return replace(batch, present=present, labels=None, members=None, known=None)
