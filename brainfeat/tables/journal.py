"""The rows of a run that has not ended, safe if the process is killed."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainfeat.exceptions import TableError
from brainfeat.io.atomic import naming_output
from brainfeat.io.json_files import read_json_object, write_json
from brainfeat.io.locks import lock_folder, release_folder
from brainfeat.io.vector_store import VectorStore
from brainfeat.preprocessing.quality import Quality

__all__ = ["RowJournal", "count_rows", "read_header"]

_HEADER, _ROWS = "header.json", "rows"

_SEPARATOR = "\t"  # of the hash, the voxel size and the quality in a note


class RowJournal:
    """A locked working folder: a header that describes the run, and its vectors.

    ``header`` is what the process that created the folder wrote, or None. Raises
    `FolderBusyError` if another process holds the folder.
    """

    def __init__(self, folder: Path, n_features: int) -> None:
        self.folder = folder
        self.n_features = n_features
        self._lock = lock_folder(folder)
        self._store = VectorStore(folder / _ROWS)
        self.header = read_header(folder)
        self.has_rows = not self._store.is_empty()
        self._notes: dict[str, str | None] = {}

    def begin(self, header: Mapping[str, Any], *, discard: bool) -> None:
        """Write the header; ``discard`` drops the rows of an earlier run."""
        if discard:
            self._store.clear()
            self._notes.clear()
            self.has_rows = False
        write_json(self.folder / _HEADER, header)
        self.header = dict(header)

    def append(
        self,
        key: str,
        input_sha256: str,
        vector: NDArray[np.float32],
        voxel_mm: str | None = None,
        quality: Quality | None = None,
    ) -> None:
        """Store the row of a key, in place of its old one."""
        if vector.shape != (self.n_features,):
            raise TableError(
                f"expected a vector of {self.n_features} features, "
                f"got shape {vector.shape}."
            )
        text = "" if quality is None else quality.to_text()
        note = _SEPARATOR.join([input_sha256, voxel_mm or "", text])
        with naming_output(self.folder, "; the rows before this one are kept"):
            self._store.save(_file_key(key), vector, note)
        self._notes[key] = note
        self.has_rows = True

    def input_sha256(self, key: str) -> str | None:
        """Return the hash of the images of a row, None if there is no such row."""
        return self._read_note(key)[0] or None

    def voxel_mm(self, key: str) -> str | None:
        """Return the voxel size of a row, None if it is not known."""
        return self._read_note(key)[1] or None

    def quality(self, key: str) -> Quality | None:
        """Return how well the brain of a row was found, None if it is not known."""
        return Quality.from_text(self._read_note(key)[2])

    def read(self, key: str) -> NDArray[np.float32]:
        """Read the vector of a stored row."""
        row = self._store.load(_file_key(key))
        if row is None:
            raise TableError(f"{self.folder}: a row was lost; run the command again.")
        return row.vector

    def close(self, *, remove: bool) -> None:
        """Release the folder, or remove it; closing again does nothing."""
        if not self._lock.is_locked:
            return
        if remove:
            release_folder(self.folder, self._lock)
        else:
            self._lock.release()

    def _read_note(self, key: str) -> list[str]:
        """Return hash, voxel size and quality; those not known are empty."""
        parts = (self._note(key) or "").split(_SEPARATOR)
        # Journals of earlier versions have fewer.
        return [*parts, "", ""][:3]

    def _note(self, key: str) -> str | None:
        if key not in self._notes:
            row = self._store.load(_file_key(key)) if self.has_rows else None
            is_usable = row is not None and row.vector.shape == (self.n_features,)
            self._notes[key] = row.note if row is not None and is_usable else None
        return self._notes[key]


def read_header(folder: Path) -> dict[str, Any] | None:
    """Read the header of a journal that another process may hold."""
    return read_json_object(folder / _HEADER)


def count_rows(folder: Path) -> int:
    """Count the rows of a journal that another process may hold."""
    return VectorStore(folder / _ROWS).count()


def _file_key(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
