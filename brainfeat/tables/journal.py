"""A crash-safe journal of vectors: what a killed run has done is still there."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from brainfeat.exceptions import TableError
from brainfeat.io.atomic import atomic_write
from brainfeat.io.locks import lock_folder, release_folder

__all__ = [
    "JournalEntry",
    "RowJournal",
]


class JournalEntry(NamedTuple):
    """Where the vector of one key lies, and which input it was made from."""

    input_sha256: str
    position: int


class RowJournal:
    """Vectors appended to a folder, one at a time, by one process at a time.

    A vector is written first and the line that announces it second, so a line
    cut short, a line without its vector or a vector that fails its checksum
    can only be the last thing that a killed process wrote. It is dropped when
    the journal is opened again.

    Parameters
    ----------
    folder : Path
        Working folder of the journal; created if needed.
    n_features : int
        Length of every vector.

    Attributes
    ----------
    header : dict or None
        What the process that began this journal said of its rows.
    entries : dict of str to JournalEntry
        The last entry of every key.

    Raises
    ------
    TableError
        If another process is writing to the folder, or it cannot be written.
    """

    def __init__(self, folder: Path, n_features: int) -> None:
        self.folder = folder
        self.n_features = n_features
        self._row_bytes = 4 * n_features
        self._lock = lock_folder(folder)
        self.header: dict[str, Any] | None = _read_header(folder / "header.json")
        self.entries: dict[str, JournalEntry] = {}
        self._n_rows = 0
        self._files: tuple[BinaryIO, BinaryIO] | None = None

    def begin(self, header: Mapping[str, Any], *, discard: bool) -> None:
        """Open the journal for appending.

        Parameters
        ----------
        header : mapping
            JSON values that say what the rows are.
        discard : bool
            Drop the rows that are there, instead of going on after them.
        """
        if discard:
            for name in ("rows.jsonl", "vectors.f32"):
                (self.folder / name).unlink(missing_ok=True)
        with atomic_write(self.folder / "header.json") as partial:
            partial.write_text(json.dumps(header), encoding="utf-8")
        self.header = dict(header)
        # Unbuffered: what append() returned from survives a kill.
        lines = (self.folder / "rows.jsonl").open("a+b", buffering=0)
        vectors = (self.folder / "vectors.f32").open("a+b", buffering=0)
        self._files = lines, vectors
        self._recover(lines, vectors)

    def append(self, key: str, input_sha256: str, vector: NDArray[np.float32]) -> None:
        """Keep one vector; once this returns, a killed process loses nothing of it.

        Parameters
        ----------
        key : str
            What the vector belongs to.
        input_sha256 : str
            Fingerprint of the input that it was made from.
        vector : ndarray of shape (n_features,)
            The vector.

        Raises
        ------
        TableError
            If the vector has another length, or the disk is full.
        """
        if vector.shape != (self.n_features,):
            raise TableError(
                f"expected a vector of {self.n_features} features, "
                f"got shape {vector.shape}."
            )
        lines, vectors = self._open_files()
        content = np.ascontiguousarray(vector, dtype="<f4").tobytes()
        line = {"key": key, "sha256": input_sha256, "crc": zlib.crc32(content)}
        try:
            _write_all(vectors, content)
            _write_all(lines, json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise TableError(
                f"{self.folder}: cannot be written ({error.strerror}); "
                "what was there before is kept."
            ) from error
        self.entries[key] = JournalEntry(input_sha256, self._n_rows)
        self._n_rows += 1

    def read(self, position: int) -> NDArray[np.float32]:
        """Read one vector.

        Parameters
        ----------
        position : int
            As in its entry.

        Returns
        -------
        ndarray of shape (n_features,)
            The vector.
        """
        _, vectors = self._open_files()
        vectors.seek(position * self._row_bytes)
        return np.frombuffer(vectors.read(self._row_bytes), dtype="<f4")

    def close(self, *, remove: bool) -> None:
        """Release the folder; closing again does nothing.

        Parameters
        ----------
        remove : bool
            Delete it too: its rows have found another home.
        """
        if not self._lock.is_locked:
            return
        for file in self._files or ():
            file.close()
        self._files = None
        if remove:
            release_folder(self.folder, self._lock)
        else:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close(remove=False)

    def _open_files(self) -> tuple[BinaryIO, BinaryIO]:
        if self._files is None:
            raise TableError(f"{self.folder}: the journal is not open for writing.")
        return self._files

    def _recover(self, lines: BinaryIO, vectors: BinaryIO) -> None:
        end = 0
        lines.seek(0)
        vectors.seek(0)
        for line in lines.read().splitlines(keepends=True):
            entry = _parse(line)
            content = vectors.read(self._row_bytes)
            if entry is None or entry["crc"] != zlib.crc32(content):
                break
            self.entries[entry["key"]] = JournalEntry(entry["sha256"], self._n_rows)
            self._n_rows += 1
            end += len(line)
        lines.truncate(end)
        vectors.truncate(self._n_rows * self._row_bytes)


def _read_header(path: Path) -> dict[str, Any] | None:
    try:
        header: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return header


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        entry: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return entry


def _write_all(file: BinaryIO, content: bytes) -> None:
    # An unbuffered write may take only a part, for example when the disk fills.
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]
