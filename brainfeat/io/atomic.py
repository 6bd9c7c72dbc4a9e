"""Writing so that a reader sees the old file or the new one, never half of one."""

import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["atomic_write", "write_json"]


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path that becomes ``path`` when the block ends.

    The temporary file lies in the same folder, keeps the suffixes of ``path``
    and is removed if the block raises, so that ``path`` is untouched then.

    Parameters
    ----------
    path : path-like
        File to create or replace; its folder is created if needed.

    Yields
    ------
    Path
        Where the block writes.

    Raises
    ------
    OSError
        If the folder cannot be written.

    Examples
    --------
    >>> folder = getfixture("tmp_path")
    >>> with atomic_write(folder / "note.txt") as partial:
    ...     _ = partial.write_text("whole")
    >>> (folder / "note.txt").read_text()
    'whole'
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The suffixes decide the format for many writers, so they must stay last.
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
        # Only the system's errors tell of a file; one of a library is its own words.
        names = {None, os.fspath(partial)}
        if isinstance(error, OSError) and error.errno and error.filename in names:
            error.filename = os.fspath(target)
        raise


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all.

    Parameters
    ----------
    path : path-like
        File to create or replace.
    content : mapping
        Values that JSON knows.
    """
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
