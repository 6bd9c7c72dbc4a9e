"""Locks of folders that one process at a time writes."""

__all__ = [
    "FolderBusyError",
    "is_locked",
    "lock_folder",
    "release_folder",
    "release_lock",
]

import contextlib
import shutil
import sys
import time
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from brainfeat.exceptions import TableError

# For a folder that other processes keep removing; the pause is in seconds.
_MAX_ATTEMPTS = 100
_PAUSE = 0.001


class FolderBusyError(TableError):
    """Another process holds the folder."""


def lock_folder(folder: Path) -> BaseFileLock:
    """Create a folder and lock it for this process; a killed process leaves no lock.

    Raises `FolderBusyError` at once if another process holds it, and `TableError` if
    it cannot be written or its file system has no locks.
    """
    path = folder / "lock"
    for _ in range(_MAX_ATTEMPTS):
        _make_folder(folder)
        # A soft lock would survive a kill.
        lock = FileLock(path, thread_local=False, fallback_to_soft=False)
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            if path.exists():
                raise _busy(folder) from error
        except FileNotFoundError:
            pass  # the holder removed the folder
        except PermissionError as error:
            raise _not_writable(folder, error) from error
        except OSError as error:  # some network file systems have no locks
            raise TableError(
                f"{folder}: cannot be locked ({error.strerror}); choose an output on a "
                "file system that has locks, such as a local disk."
            ) from error
        else:
            return lock
        time.sleep(_PAUSE)
    raise _busy(folder)


def is_locked(folder: Path) -> bool:
    """Whether a process holds a folder; does not create it."""
    path = folder / "lock"
    if not path.exists():
        return False
    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    except OSError:  # the folder was removed, or belongs to another user
        return False
    release_lock(lock)
    # The holder may have removed all but the lock file in between.
    with contextlib.suppress(OSError):
        folder.rmdir()
    return False


def release_folder(folder: Path, lock: BaseFileLock) -> None:
    """Delete a folder that this process holds, with its contents."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()
    # Last: without the lock file, the next process would own what it finds.
    release_lock(lock)
    # Another process may hold the folder by now, or have removed it.
    with contextlib.suppress(OSError):
        folder.rmdir()


def release_lock(lock: BaseFileLock) -> None:
    """Remove the file of a lock and release it."""
    path = Path(lock.lock_file)
    if sys.platform == "win32":
        # An open file cannot be removed, and one that was opened since stays.
        lock.release()
        with contextlib.suppress(OSError):
            path.unlink()
    else:
        path.unlink(missing_ok=True)
        lock.release()


def _make_folder(folder: Path) -> None:
    for attempt in range(_MAX_ATTEMPTS):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return
        except OSError as error:
            # Another process removed the folder between two calls of mkdir. In some
            # places, such as /proc, no folder can be created at all.
            is_gone = isinstance(error, FileNotFoundError | FileExistsError)
            if not is_gone or attempt == _MAX_ATTEMPTS - 1:
                raise _not_writable(folder, error) from error
            time.sleep(_PAUSE)


def _busy(folder: Path) -> FolderBusyError:
    return FolderBusyError(f"{folder}: another process is writing this table.")


def _not_writable(folder: Path, error: OSError) -> TableError:
    return TableError(f"{folder}: cannot be written ({error.strerror}).")
