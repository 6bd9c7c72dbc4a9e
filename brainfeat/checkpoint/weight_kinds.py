"""What lies in a file that should hold weights, by its content."""

__all__ = ["describe_other", "is_safetensors"]

import os
import tarfile
import zipfile
from pathlib import Path

from brainfeat.exceptions import list_names
from brainfeat.io.file_kinds import find_compression, first_bytes

_MAX_HEADER = 100_000_000  # bytes, the limit of safetensors
_ZIP, _HDF5 = b"PK\x03\x04", b"\x89HDF"
_PICKLE = b"\x80"
_UNPACK = "unpack it and give the weights in it"


def is_safetensors(path: Path) -> bool:
    """Whether a file begins with the length of a header and the header."""
    start = first_bytes(path)
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= _MAX_HEADER


def describe_other(path: Path) -> str | None:
    """Name a file that is neither safetensors nor of ``torch.save``, with the mend."""
    start = first_bytes(path)
    if not start:
        return "an empty file; fetch it again"
    if start.startswith(_ZIP):
        return _describe_zip(path)
    if is_safetensors(path):
        return None
    compression = find_compression(start)
    if compression is not None:
        return f"a file compressed with {compression}; {_UNPACK}"
    # torch would run the pickles in an archive of its first versions.
    if tarfile.is_tarfile(path):
        return f"a tar archive; {_UNPACK}"
    if start.startswith(_HDF5):
        return "an HDF5 file, as Keras writes it; only weights of PyTorch are read"
    if start.startswith(_PICKLE):
        return None
    return "a file that neither torch.save nor safetensors wrote"


def _describe_zip(path: Path) -> str | None:
    if not zipfile.is_zipfile(path):
        return "a file that ends too early; the download stopped, fetch it again"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    files = {os.path.basename(name) for name in names}  # noqa: PTH119  # of an archive
    if "constants.pkl" in files:
        return (
            "a TorchScript program; save the weights: "
            "torch.save(model.state_dict(), path)"
        )
    if "data.pkl" not in files:
        return f"a zip archive of {list_names(sorted(names))}; {_UNPACK}"
    return None
