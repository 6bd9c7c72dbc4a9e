"""Locks of folders that one process at a time writes."""

import contextlib
import os
import sys
from pathlib import Path
from typing import BinaryIO

from brainfeat.exceptions import TableError

if sys.platform != "win32":
    import fcntl

__all__ = ["FolderBusyError", "lock_folder", "release_folder"]

_MOST_MISSES = 100  # in a row, of a folder that is made and at once removed


class FolderBusyError(TableError):
    """Another process holds the folder."""


def lock_folder(folder: Path) -> BinaryIO:
    """Create a folder for this process alone.

    Parameters
    ----------
    folder : Path
        Working folder.

    Returns
    -------
    binary file
        Holds the folder until it is closed.

    Raises
    ------
    FolderBusyError
        If another process has it.
    TableError
        If it cannot be written or locked.
    """
    misses = 0
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / "lock").open("ab")
        except OSError as error:
            misses += 1
            # The process before us removed its folder just now, maybe between mkdir's
            # look and its second; but there are places, such as /proc, where no folder
            # can be made.
            is_gone = isinstance(error, FileNotFoundError | FileExistsError)
            if is_gone and misses < _MOST_MISSES:
                continue
            raise TableError(
                f"{folder}: cannot be written ({error.strerror})."
            ) from error
        if sys.platform != "win32":
            _lock_file(lock, folder)
            # A lock on a file that was removed meanwhile keeps nobody out.
            if not _is_same_file(lock, folder / "lock"):
                lock.close()
                continue
        return lock


def release_folder(folder: Path, lock: BinaryIO) -> None:
    """Delete a folder that this process holds, with the files in it.

    Parameters
    ----------
    folder : Path
        Working folder.
    lock : binary file
        What `lock_folder` gave; closed then.
    """
    # The lock goes last: without it, the next process takes what it finds as its own.
    for path in sorted(folder.iterdir(), key=lambda path: path.name == "lock"):
        path.unlink()
    lock.close()
    # Another process may hold the folder by now, or have removed it.
    with contextlib.suppress(OSError):
        folder.rmdir()


def _lock_file(lock: BinaryIO, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise FolderBusyError(
            f"{folder}: another process is writing this table."
        ) from error
    except OSError as error:  # some network file systems have no locks
        lock.close()
        raise TableError(
            f"{folder}: cannot be locked ({error.strerror}); choose an output on a "
            "file system that has locks, such as a local disk."
        ) from error


def _is_same_file(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
