import errno
import multiprocessing
import os
import sys
from pathlib import Path

import pytest

from brainfeat.exceptions import TableError
from brainfeat.io.locks import (
    FolderBusyError,
    lock_folder,
    release_folder,
    release_lock,
)

needs_flock = pytest.mark.skipif(sys.platform == "win32", reason="has no flock")


def test_second_holder_is_refused_until_the_first_releases(tmp_path):
    folder = tmp_path / "work"
    lock = lock_folder(folder)
    with pytest.raises(FolderBusyError, match="another process is writing"):
        lock_folder(folder)
    release_lock(lock)
    assert list(folder.iterdir()) == []
    release_folder(folder, lock_folder(folder))
    assert not folder.exists()


def _hold_and_die(folder):
    lock_folder(folder)
    os._exit(7)


def test_killed_process_leaves_no_lock(tmp_path):
    folder = tmp_path / "work"
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_hold_and_die, args=(folder,))
    process.start()
    process.join()
    assert process.exitcode == 7
    assert (folder / "lock").exists()
    release_folder(folder, lock_folder(folder))


@needs_flock
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
def test_file_system_without_locks_is_not_a_busy_folder(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    message = r"cannot be locked \(No locks available\); choose an output on a file"
    with pytest.raises(TableError, match=message) as caught:
        lock_folder(tmp_path / "work")
    assert not isinstance(caught.value, FolderBusyError)


def test_released_folder_may_be_locked_at_once(tmp_path, monkeypatch):
    folder, remove, locks = tmp_path / "work", Path.rmdir, []

    def lock_and_remove(path):
        locks.append(lock_folder(path))
        remove(path)

    monkeypatch.setattr(Path, "rmdir", lock_and_remove)
    release_folder(folder, lock_folder(folder))
    with pytest.raises(FolderBusyError):
        lock_folder(folder)
    release_lock(locks[0])


@needs_flock
def test_folder_removed_by_its_holder_is_not_busy(tmp_path, monkeypatch):
    import fcntl

    folder, flock = tmp_path / "work", fcntl.flock
    first, released = lock_folder(folder), []

    def release_first(file, operation):
        if not released:  # between the opening of its lock file and the locking
            released.append(True)
            release_folder(folder, first)
        return flock(file, operation)

    monkeypatch.setattr("fcntl.flock", release_first)
    lock = lock_folder(folder)
    assert (folder / "lock").exists()
    with pytest.raises(FolderBusyError):
        lock_folder(folder)
    release_folder(folder, lock)


@needs_flock
def test_folder_is_emptied_before_its_lock_is_removed(tmp_path, monkeypatch):
    lock, unlink, left = lock_folder(tmp_path / "work"), Path.unlink, []

    def note_and_unlink(path, **options):
        unlink(path, **options)
        left.append((path.parent / "lock").exists())

    for name in ("a", "z"):
        (tmp_path / "work" / name).touch()
    monkeypatch.setattr(Path, "unlink", note_and_unlink)
    release_folder(tmp_path / "work", lock)
    assert left == [True, True, False]
    assert not (tmp_path / "work").exists()


def test_folder_that_can_never_be_created_is_refused(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(TableError, match="cannot be written"):
        lock_folder(tmp_path / "table")


def test_folder_removed_while_it_is_created_is_created_again(tmp_path, monkeypatch):
    make, refused = Path.mkdir, []

    def refuse_once(path, **options):
        if not refused:
            # What pathlib raises if the folder exists first, and then does not.
            refused.append(path)
            raise FileExistsError(errno.EEXIST, "File exists")
        make(path, **options)

    monkeypatch.setattr(Path, "mkdir", refuse_once)
    folder = tmp_path / ".working"
    release_folder(folder, lock_folder(folder))
    assert refused == [folder]
    folder.touch()
    with pytest.raises(TableError, match=r"cannot be written \(File exists\)"):
        lock_folder(folder)
