"""The log of a command: lines with a header and a time each, and a copy in a file."""

__all__ = ["LogHandler", "begin_log", "copy_to_file", "end_log", "write_line"]

import logging
import os
import platform
import re
import sys
from datetime import datetime
from pathlib import Path
from typing import TextIO

from brainfeat._version import __version__
from brainfeat.exceptions import InputError
from brainfeat.io.paths import expand_home
from brainfeat.progress import DRAWN_LINES
from brainfeat.subjects.failures import one_line

_LOGGER = logging.getLogger("brainfeat")
_HEADER = re.compile(r"\S+ \S+ brainfeat \S+ on host ")


class LogHandler(logging.Handler):
    """Writes to a file, or to the current standard error, which a bar replaces.

    ``command`` is what the header names; `begin_log` puts a time on each line.
    """

    def __init__(
        self, stream: TextIO | None, *, command: str = "", is_file: bool = False
    ) -> None:
        super().__init__()
        self.command, self.is_file, self.has_times = command, is_file, is_file
        self._stream = stream

    def write(self, text: str) -> None:
        """Write lines, with the time if the log has begun."""
        time = datetime.now().astimezone().isoformat(" ", "seconds")
        prefix = f"{time} " if self.has_times else ""
        lines = "".join(f"{prefix}{line}\n" for line in text.splitlines())
        (self._stream or sys.stderr).write(lines)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message, and whether it is a warning."""
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        self.write(f"{prefix}{self.format(record)}")

    def close(self) -> None:
        """Close the file."""
        if self.is_file and self._stream is not None:
            self._stream.close()
        super().close()


def begin_log(device: str, file: Path | None = None) -> None:
    """Write the header of a run, put a time on its lines, and copy them to a file.

    The command, with all its inputs, is in the file only.
    """
    command = next((handler.command for handler in _handlers()), "brainfeat")
    if file is not None:
        handler = LogHandler(_open(expand_home(file)), is_file=True)
        _LOGGER.addHandler(handler)
        # A bar shows these lines on the terminal.
        DRAWN_LINES.propagate = False
        DRAWN_LINES.addHandler(handler)
    for handler in _handlers():
        handler.has_times = True
    write_line(
        f"brainfeat {__version__} on host {platform.node()}, {_count_cores()} cores, "
        f"device {device}, Python {platform.python_version()}"
    )
    copy_to_file(f"command: {one_line(command)}")
    copy_to_file(f"folder: {one_line(os.fspath(Path.cwd()))}")


def end_log() -> None:
    """Close the log, and stop writing messages."""
    for handler in _handlers():
        _LOGGER.removeHandler(handler)
        DRAWN_LINES.removeHandler(handler)
        handler.close()
    DRAWN_LINES.propagate = True


def write_line(text: str) -> None:
    """Write one line to standard error and to the log file."""
    for handler in _handlers() or [LogHandler(None)]:
        handler.write(one_line(text))


def copy_to_file(text: str) -> None:
    """Write to the log file what is printed otherwise."""
    for handler in _handlers():
        if handler.is_file:
            handler.write(text)


def _handlers() -> list[LogHandler]:
    return [h for h in _LOGGER.handlers if isinstance(h, LogHandler)]


def _open(path: Path) -> TextIO:
    """Open a log to append to; refuse other files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and path.stat().st_size:
        with path.open(encoding="utf-8", errors="replace") as old:
            if not _HEADER.match(old.readline(1000)):
                raise InputError(
                    f"{path}: exists and is not a log of brainfeat; choose another "
                    "name for --log-file."
                )
    return path.open("a", buffering=1, encoding="utf-8", errors="backslashreplace")


def _count_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
