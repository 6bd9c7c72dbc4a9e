"""Pictures of the subjects of a table, kept beside it: ``TABLE.previews``."""

__all__ = ["PreviewFolder"]

import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from brainfeat.io.atomic import atomic_write
from brainfeat.preprocessing.preview import SubjectPicture, read_picture

_LOGGER = logging.getLogger(__name__)

_LENGTH = 32  # hexadecimal digits of a hash, which name a file


class PreviewFolder(NamedTuple):
    """PNG files of the rows of a table, named by the hash of a row's images.

    They lie in up to 256 folders, so that none has too many for a file system. A file
    is whole or not there: what a killed run wrote counts for the next one.
    """

    folder: Path

    @classmethod
    def beside(cls, table: str | os.PathLike[str]) -> "PreviewFolder":
        """Return the folder of a table, which need not exist."""
        path = Path(table)
        return cls(path.with_name(f"{path.name}.previews"))

    def path(self, input_sha256: str) -> Path:
        """Name the file of a row."""
        return self.folder / input_sha256[:2] / f"{input_sha256[:_LENGTH]}.png"

    def save(self, input_sha256: str, png: bytes) -> None:
        """Keep a picture; a full disk is no reason to lose an embedding."""
        try:
            with atomic_write(self.path(input_sha256), flush=False) as partial:
                partial.write_bytes(png)
        except OSError as error:
            _LOGGER.warning("%s: a preview was not kept (%s).", self.folder, error)

    def load(self, input_sha256: str | None) -> SubjectPicture | None:
        """Return the picture of a row, or None if it is missing or damaged."""
        if not input_sha256:
            return None
        try:
            return read_picture(self.path(input_sha256).read_bytes())
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def clear(self) -> None:
        """Remove all pictures."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def take(self, other: "PreviewFolder", hashes: Iterable[str | None]) -> None:
        """Take over the pictures of rows from another folder, without copying bytes."""
        if not other.folder.is_dir():
            return
        for input_sha256 in filter(None, hashes):
            source, target = other.path(input_sha256), self.path(input_sha256)
            if not source.is_file() or target.is_file():
                continue  # one link renamed to another of its file would stay
            try:
                with atomic_write(target, flush=False) as partial:
                    partial.unlink()
                    try:
                        os.link(source, partial)
                    except OSError:  # another disk, or one without links
                        shutil.copyfile(source, partial)
            except OSError as error:
                _LOGGER.warning("%s: a preview was not kept (%s).", target, error)
                return
