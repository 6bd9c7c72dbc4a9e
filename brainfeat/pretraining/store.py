"""A store of preprocessed volumes on disk, memory-mapped for training."""

__all__ = ["INDEX_NAME", "StoreIndex", "StoredScan", "VolumeStore"]

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from brainfeat.configs import from_plain
from brainfeat.exceptions import InputError, brief_reason
from brainfeat.io.json_files import read_json, write_json
from brainfeat.pretraining.source import SubjectBatch, derive_seed

INDEX_NAME = "index.json"
_FORMAT = "brainfeat-store-1"


@dataclass(frozen=True, kw_only=True)
class StoredScan:
    """One acquisition of one subject.

    `file` names its array in the store: float16 of shape (M + 1, I, J, K), the
    modalities and then the foreground; `present` says which modalities it has.
    """

    subject: str
    file: str
    present: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True)
class StoreIndex:
    """Contents of a store, saved as ``index.json``."""

    modalities: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    scans: tuple[StoredScan, ...]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the index of a store."""
        path = folder / INDEX_NAME
        if not path.is_file():
            raise InputError(f"{folder}: holds no finished store ({INDEX_NAME}).")
        content = read_json(path, "the index of a store")
        if content.get("format") != _FORMAT:
            raise InputError(f"{path}: not of format {_FORMAT}.")
        try:
            index = cls(
                modalities=tuple(content["modalities"]),
                preprocessing=dict(content["preprocessing"]),
                scans=tuple(
                    from_plain(StoredScan, scan, where="scan")
                    for scan in content["scans"]
                ),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: expected the index of a store, got a damaged one "
                f"({brief_reason(error)})."
            ) from error
        n_modalities = len(index.modalities)
        for scan in index.scans:
            if len(scan.present) != n_modalities:
                raise InputError(
                    f"{path}: expected {n_modalities} modalities of {scan.subject}, "
                    f"got {len(scan.present)}."
                )
        return index

    def save(self, folder: Path) -> None:
        """Write the index, after all arrays."""
        content = {
            "format": _FORMAT,
            "modalities": list(self.modalities),
            "preprocessing": dict(self.preprocessing),
            "scans": [asdict(scan) for scan in self.scans],
        }
        write_json(folder / INDEX_NAME, content, indent=1)


class VolumeStore:
    """A source of subjects whose volumes `write_store` preprocessed.

    Subjects are shuffled anew in each epoch. A subject with several acquisitions
    gives two of them, so that objectives can compare them.
    """

    targets: tuple[str, ...] = ()
    tissues: tuple[str, ...] = ()
    target_weights: tuple[float, ...] = ()

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.index = StoreIndex.load(self.folder)
        if not self.index.scans:
            raise InputError(f"{self.folder}: the store is empty.")
        self.modalities = self.index.modalities
        self.preprocessing = self.index.preprocessing
        self.shape = self._check_arrays()

    @cached_property
    def subjects(self) -> dict[str, list[StoredScan]]:
        """Scans of each subject."""
        scans: dict[str, list[StoredScan]] = {}
        for scan in self.index.scans:
            scans.setdefault(scan.subject, []).append(scan)
        return scans

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the index; arrays are named by the hash of their content."""
        scans = [asdict(scan) for scan in self.index.scans]
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
        names = list(self.subjects)
        scans: list[StoredScan] = []
        orders: dict[int, NDArray[np.int64]] = {}
        first = (step * n_processes + process) * n_subjects
        for number in range(first, first + n_subjects):
            epoch, position = divmod(number, len(names))
            if epoch not in orders:
                generator = np.random.default_rng(derive_seed(seed, epoch))
                orders[epoch] = generator.permutation(len(names))
            name = names[orders[epoch][position]]
            scans += self._choose_scans(name, derive_seed(seed, number, 1))
        return self._read(scans, self.n_acquisitions)

    def load(self, names: Sequence[str]) -> SubjectBatch:
        """Return the first acquisition of each named subject."""
        return self._read([self.subjects[name][0] for name in names], 1)

    def _check_arrays(self) -> tuple[int, int, int]:
        """Return the shape of a volume; raise unless all arrays can have it."""
        first, *others = self.index.scans
        shape = self._open(first).shape
        if len(shape) != 4 or shape[0] != len(self.modalities) + 1:
            raise InputError(
                f"{self.folder / first.file}: expected {len(self.modalities)} "
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

    def _choose_scans(self, name: str, seed: int) -> list[StoredScan]:
        """Choose acquisitions of a subject, repeated if there are too few."""
        scans = self.subjects[name]
        order = np.random.default_rng(seed).permutation(len(scans))
        return [scans[order[n % len(scans)]] for n in range(self.n_acquisitions)]

    def _read(self, scans: list[StoredScan], n_acquisitions: int) -> SubjectBatch:
        arrays = np.stack([self._open(scan) for scan in scans])  # BA M+1 I J K
        data = torch.from_numpy(arrays).unflatten(0, (-1, n_acquisitions))
        present = torch.tensor([scan.present for scan in scans])
        return SubjectBatch(
            volumes=data[:, :, :-1].float(),
            present=present.unflatten(0, (-1, n_acquisitions)),
            foreground=data[:, :, -1].float(),
        )

    def _open(self, scan: StoredScan) -> NDArray[np.float16]:
        path = self._path(scan)
        try:
            array: NDArray[np.float16] = np.load(path, mmap_mode="r")
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
