"""Content of images, hashed once while their files stay as they are."""

import os
import time
from pathlib import Path
from typing import NamedTuple, Self

from brainfeat.exceptions import VolumeError
from brainfeat.io.hashing import content_hash
from brainfeat.io.image_files import ImageSource, files_of
from brainfeat.io.paths import expand_home

__all__ = ["known_hash"]

# File systems tell times in steps: a file may change again within the step in which it
# was read, and look the same.
_SETTLED_AFTER = 2.0  # seconds


class _FileState(NamedTuple):
    """What changes when a file is written to, moved or replaced."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int  # nanoseconds; set by any write, and by no program

    @classmethod
    def of(cls, path: Path) -> Self:
        found = path.stat()
        return cls(
            found.st_dev,
            found.st_ino,
            found.st_size,
            found.st_mtime_ns,
            found.st_ctime_ns,
        )


# Of this process; some 400 bytes a file.
_HASHES: dict[Path, tuple[list[_FileState], str]] = {}


def known_hash(source: ImageSource) -> str:
    """Fingerprint an image by its content, but a file only once while it stays.

    Parameters
    ----------
    source : path-like or nibabel image
        As for :func:`brainfeat.io.hashing.content_hash`.

    Returns
    -------
    str
        SHA-256 in hexadecimal.

    Raises
    ------
    VolumeNotFoundError
        If there is no such file.
    VolumeError
        If the file cannot be read.
    """
    if not isinstance(source, str | os.PathLike):
        return content_hash(source)
    path = expand_home(source).absolute()
    try:
        # Before reading: what is written meanwhile must look new.
        states, now = list(map(_FileState.of, files_of(path))), time.time()
    except (OSError, VolumeError):
        return content_hash(source)  # which tells what is wrong
    known = _HASHES.get(path)
    if known is not None and known[0] == states:
        return known[1]
    digest = content_hash(source)
    if now - max(state.changed for state in states) / 1e9 > _SETTLED_AFTER:
        _HASHES[path] = states, digest
    return digest
