"""What a file is by its first bytes, whatever its name says, and the way to read it."""

__all__ = [
    "Compression",
    "describe_absence",
    "describe_dicom",
    "describe_link",
    "describe_stranger",
    "find_compression",
    "first_bytes",
    "is_address",
]

import os
import re
from itertools import islice
from pathlib import Path
from typing import Literal

Compression = Literal["gzip", "zstd"]

_MAGIC: dict[bytes, Compression] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_N_BYTES = 1024
_ANNEX = "a pointer of git-annex; fetch the file with datalad get"
# Of git-annex: its own pointers, and links on file systems that have none.
_ANNEX_TEXT = re.compile(rb"(/annex/objects/|[./\\]*\.git/annex/objects/)\S+\s*")
_LFS_TEXT = b"version https://git-lfs.github.com/spec/"
_WEB_PAGE = re.compile(
    rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?"
    rb"<(!doctype html|html|head|error)\b",
    re.IGNORECASE | re.DOTALL,
)
# The first element of a DICOM file without preamble, with an explicit type.
_BARE_DICOM = re.compile(rb"[\x02\x08]\x00.\x00(UL|OB|UI|CS|LO|SH|DA|TM)", re.DOTALL)
# "https:/" is left of "https://" in a Path. Drives of Windows have one letter.
_ADDRESS = re.compile(r"(^|[/\\])(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/")
_MAX_SEARCHED = 100  # files of a folder


def first_bytes(path: Path) -> bytes:
    """Read as much of a file as tells its kind."""
    with path.open("rb") as file:
        return file.read(_N_BYTES)


def find_compression(start: bytes) -> Compression | None:
    """Return how a file is compressed, by its first bytes."""
    return next((c for magic, c in _MAGIC.items() if start.startswith(magic)), None)


def describe_stranger(start: bytes) -> str | None:
    """Name what lies in place of a file, with the mend; None if nothing known does.

    >>> describe_stranger(b"<!DOCTYPE html><title>Sign in</title>")
    'a web page; the download failed, fetch the file again'
    """
    if _ANNEX_TEXT.fullmatch(start):
        return _ANNEX
    if start.startswith(_LFS_TEXT):
        return "a pointer of Git LFS; fetch the file with git lfs pull"
    if _WEB_PAGE.match(start):
        return "a web page; the download failed, fetch the file again"
    if start[128:132] == b"DICM" or _BARE_DICOM.match(start):
        return "a DICOM file; convert its series with dcm2niix"
    return None


def is_address(text: str) -> bool:
    """Whether a text is an address, such as ``s3://bucket/a.nii``, not a path."""
    # Path.exists raises an error if a name is too long.
    return _ADDRESS.match(text) is not None and not os.path.exists(text)  # noqa: PTH110


def describe_absence(path: str | os.PathLike[str]) -> str:
    """Say why there is no file at a path, with the mend if there is one.

    >>> describe_absence("s3://bucket/a.nii.gz")
    's3:// addresses are not read; download the file first'
    """
    address = _ADDRESS.search(os.fspath(path))
    if address is not None:
        scheme = address["scheme"]
        mend = "give the path alone" if scheme == "file" else "download the file first"
        return f"{scheme}:// addresses are not read; {mend}"
    return _ANNEX if _is_annexed(Path(path)) else "no such file"


def describe_link(path: Path) -> str:
    """Say what a link to no file is, with the mend if there is one."""
    return _ANNEX if _is_annexed(path) else "a link to no file"


def _is_annexed(path: Path) -> bool:
    return path.is_symlink() and "annex/objects/" in path.readlink().as_posix()


def describe_dicom(folder: Path) -> str | None:
    """Name the DICOM files of a folder, with the mend; None if there are none."""
    files = (
        Path(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".")
    )
    if any(map(_is_dicom, islice(files, _MAX_SEARCHED))):
        return "DICOM files; convert them with dcm2niix"
    return None


def _is_dicom(path: Path) -> bool:
    try:
        # Opening a pipe would block.
        stranger = describe_stranger(first_bytes(path)) if path.is_file() else None
        return "DICOM" in (stranger or "")
    except OSError:
        return False
