"""SHA-256 of images by their content."""

__all__ = ["content_hash", "hash_images", "join_hashes", "known_hash"]

import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from nibabel.spatialimages import SpatialImage

from brainfeat.exceptions import VolumeError, brief_reason
from brainfeat.io.image_files import ImageSource, files_of
from brainfeat.io.paths import expand_home

# File systems store times in steps: a file that changes twice within one step may look
# unchanged.
_SETTLED_AFTER = 2.0  # seconds


# One per process; some 400 bytes per file.
_HASHES: dict[Path, tuple[list[tuple[int, ...]], str]] = {}


def content_hash(source: ImageSource) -> str:
    """Hash an image by its content, not by its name or date.

    A file is hashed byte for byte, with those that belong to it, such as the ``.hdr``
    of an ``.img``; an image in memory by its stored array and affine.
    """
    if isinstance(source, SpatialImage):
        data = np.ascontiguousarray(source.dataobj)
        digest = hashlib.sha256(f"{data.dtype.str}{data.shape}".encode())
        digest.update(np.asarray(source.affine, dtype=np.float64).tobytes())
        digest.update(data.view(np.uint8).data if data.size else b"")
        return digest.hexdigest()
    return _hash_files(files_of(source))


def known_hash(source: ImageSource) -> str:
    """Hash an image as `content_hash`, and remember files that stay unchanged."""
    if not isinstance(source, str | os.PathLike):
        return content_hash(source)
    path = expand_home(source).absolute()
    files = files_of(path)
    try:
        # Before reading, so that a concurrent write changes the state.
        states, now = list(map(_state_of, files)), time.time()
    except OSError:
        return _hash_files(files)  # which reports the error
    known = _HASHES.get(path)
    if known is not None and known[0] == states:
        return known[1]
    digest = _hash_files(files)
    if now - max(state[-1] for state in states) / 1e9 > _SETTLED_AFTER:
        _HASHES[path] = states, digest
    return digest


def hash_images(images: Mapping[str, str]) -> str:
    """Hash the images of one subject, a path per modality, by their content.

    The hash of a single file is that of its bytes.
    """
    return join_hashes({name: known_hash(path) for name, path in images.items()})


def join_hashes(hashes: Mapping[str, str]) -> str:
    """Join the hashes of a row's images; a single hash is returned as it is."""
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return _hash_text(f"{name} {value}\n" for name, value in sorted(hashes.items()))


def _state_of(path: Path) -> tuple[int, ...]:
    """Return what changes when a file is written to, moved or replaced."""
    stat = path.stat()
    # The last is set by any write, and not settable by programs.
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _hash_files(paths: list[Path]) -> str:
    digests = []
    for path in paths:
        try:
            digests.append(_file_sha256(path))
        except OSError as error:
            raise VolumeError(
                f"{path}: cannot be read ({brief_reason(error)})."
            ) from error
    return digests[0] if len(digests) == 1 else _hash_text(["\n".join(digests)])


def _hash_text(parts: Iterable[str]) -> str:
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
