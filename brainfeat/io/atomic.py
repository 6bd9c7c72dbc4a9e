"""Atomic writing: readers see the old file or the new one, never half of one."""

__all__ = ["atomic_write", "check_can_write", "naming_output"]

import errno
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from brainfeat.exceptions import TableError


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, flush: bool = True) -> Iterator[Path]:
    """Give a temporary path that replaces ``path`` when the block ends.

    It lies in the same folder, which is created if needed, and keeps the suffixes. If
    the block raises, it is removed and ``path`` stays as it was. Without ``flush``, the
    file may be damaged if the machine crashes.

    >>> folder = getfixture("tmp_path")
    >>> with atomic_write(folder / "note.txt") as partial:
    ...     _ = partial.write_text("whole")
    >>> (folder / "note.txt").read_text()
    'whole'
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Many writers choose the format by the suffixes, so they must stay last.
    suffix = "".join(target.suffixes[-2:])
    name = f".{target.name[:40]}.{secrets.token_hex(4)}{suffix}"
    partial = target.with_name(name)
    try:
        partial.touch(exist_ok=False)
    except OSError as error:
        error.filename = os.fspath(target)  # the name that the user knows
        raise
    mode = partial.stat().st_mode
    try:
        yield partial
        if flush:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.chmod(mode)  # safetensors makes its files private
        partial.replace(target)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        # Rust libraries wrap the system's errors, such as that of a full disk.
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code and not isinstance(error, OSError):
            number = int(code[1])
            reason = os.strerror(number)
            raise OSError(number, reason, os.fspath(target)) from error
        # Set filename only on genuine OS errors.
        names = {None, os.fspath(partial)}
        if isinstance(error, OSError) and error.errno and error.filename in names:
            error.filename = os.fspath(target)
        raise


@contextmanager
def naming_output(output: Path, advice: str = "") -> Iterator[None]:
    """Raise the system's errors in the block as TableError of the output."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise TableError(f"{output}: cannot be written ({reason}){advice}.") from error


def check_can_write(path: str | os.PathLike[str], *, is_folder: bool = False) -> None:
    """Raise OSError if a file, or a folder, cannot be written; creates nothing.

    Before work of minutes whose result it would not take.
    """
    target = Path(path)
    if target.is_dir() and not is_folder:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    folder = target if is_folder else target.parent
    parents = (folder, *folder.absolute().parents)
    existing = next(parent for parent in parents if os.path.lexists(parent))
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        error.filename = os.fspath(target)
        raise
