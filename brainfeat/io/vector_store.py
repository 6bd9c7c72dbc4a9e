"""Vectors on disk: one file per key, safe under kills and concurrent writers."""

__all__ = ["StoredVector", "VectorStore"]

import logging
import shutil
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from brainfeat.exceptions import brief_reason
from brainfeat.io.atomic import atomic_write

_LOGGER = logging.getLogger(__name__)
_CHECKSUM = struct.Struct("<I")


class StoredVector(NamedTuple):
    """A vector of float32 and a short text kept with it."""

    vector: NDArray[np.float32]
    note: str


class VectorStore:
    """A folder that several processes may share, also over a network file system.

    Each key, such as a hash in hexadecimal, has a file: the vector as NPY, the note,
    and a checksum of both. Files are replaced atomically. They are not flushed to the
    disk one by one: the checksum reveals those that a crash of the machine damages.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, key: str, vector: NDArray[np.float32], note: str = "") -> None:
        """Store a vector, in place of the key's old one. May raise OSError."""
        with (
            atomic_write(self._path(key), flush=False) as partial,
            # "wb" truncates, after which ext4 flushes each file.
            partial.open("r+b") as file,
        ):
            np.save(file, vector, allow_pickle=False)
            file.write(note.encode() + _checksum(vector, note.encode()))

    def load(self, key: str) -> StoredVector | None:
        """Read a vector; None if there is none, or with a warning if it is damaged."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                vector = np.lib.format.read_array(file, allow_pickle=False)
                trailer = file.read()
            note, checksum = trailer[: -_CHECKSUM.size], trailer[-_CHECKSUM.size :]
            # Caches of earlier versions have no checksum.
            if trailer and checksum != _checksum(vector, note):
                raise ValueError("wrong checksum")
            return StoredVector(vector, note.decode())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, EOFError) as error:
            reason = brief_reason(error)
            _LOGGER.warning("%s: damaged, computed again (%s)", path, reason)
            return None

    def is_empty(self) -> bool:
        """Whether no vector is stored."""
        # Partial files of killed processes begin with a dot.
        return next(self.folder.glob("*/[!.]*.npy"), None) is None

    def count(self) -> int:
        """Return how many vectors are stored."""
        return sum(1 for _ in self.folder.glob("*/[!.]*.npy"))

    def clear(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, key: str) -> Path:
        # Two levels, since some file systems are slow with many files in a folder.
        return self.folder / key[:2] / f"{key}.npy"


def _checksum(vector: NDArray[np.float32], note: bytes) -> bytes:
    return _CHECKSUM.pack(zlib.crc32(note, zlib.crc32(vector.tobytes())))
