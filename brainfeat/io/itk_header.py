"""Headers of NRRD and MetaImage files, and whether their voxels are whole."""

__all__ = ["ITK_SUFFIXES", "ItkHeader", "read_itk_header"]

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from isal import igzip

from brainfeat.exceptions import VolumeError

ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")

_MAX_HEADER = 1 << 20  # bytes
_BLOCK = 1 << 16  # bytes
_UNITS = {"um": 0.001, "micron": 0.001, "m": 1000.0}
_ORIENTATIONS = {
    "space",
    "space dimension",
    "transformmatrix",
    "orientation",
    "rotation",
}


class ItkHeader(NamedTuple):
    """Where the voxels of a file lie, and in which unit and orientation.

    The fields have names in lower case; ``n_bytes`` is the size of the header.
    """

    path: Path
    fields: Mapping[str, str]
    n_bytes: int

    @classmethod
    def parse(cls, path: Path, start: bytes) -> Self:
        """Read the fields at the start of a file."""
        fields: dict[str, str] = {}
        is_nrrd, position = start.startswith(b"NRRD"), 0
        for block in start.splitlines(keepends=True):
            position += len(block)
            line = block.decode(errors="replace").strip()
            name, _, value = line.partition(":" if is_nrrd else "=")
            if value and not line.startswith("#"):
                fields[name.strip().lower()] = value.strip(" =\t")
            if (is_nrrd and not line) or "elementdatafile" in fields:
                break
        return cls(path, fields, position)

    @property
    def data_file(self) -> Path | None:
        """The file of the voxels; None if they follow the header."""
        name = self._first("data file", "datafile", "elementdatafile")
        if name.upper() in {"", "LOCAL"}:
            return None
        if name.split()[0] == "LIST" or "%" in name:
            raise VolumeError(
                "expected the voxels in one file, got several; save the image as one "
                ".nrrd, .mha or .nii.gz."
            )
        return self.path.parent / name

    @property
    def millimetres(self) -> float:
        """Millimetres per unit of length."""
        unit = self.fields.get("space units", "mm").split()[0].strip('"')
        return _UNITS.get(unit, 1.0)

    @property
    def is_oriented(self) -> bool:
        """Whether the header says where the axes point."""
        return not _ORIENTATIONS.isdisjoint(self.fields)

    def check_voxels(self, n_bytes: int) -> None:
        """Raise VolumeError if less is stored; errors of zlib if it is damaged.

        ITK reads damaged streams without an error.
        """
        path = self.data_file
        with (path or self.path).open("rb") as file:
            file.seek(0 if path else self.n_bytes)
            if self._encoding == "raw":
                blocks = _blocks_of(file)
            elif self._encoding in {"gzip", "gz"}:
                blocks = _blocks_of(igzip.IGzipFile(fileobj=file))
            elif self._encoding == "zlib":
                blocks = _inflate(file)
            else:  # text
                return
            n_found = sum(map(len, blocks))
        if n_found < n_bytes:
            raise VolumeError(f"expected {n_bytes} bytes of voxels, got {n_found}.")

    @property
    def _encoding(self) -> str:
        if self.fields.get("compresseddata", "").lower() == "true":
            return "zlib"
        is_text = self.fields.get("binarydata", "").lower() == "false"
        return self._first("encoding") or ("text" if is_text else "raw")

    def _first(self, *names: str) -> str:
        return next((self.fields[name] for name in names if name in self.fields), "")


def read_itk_header(path: Path) -> ItkHeader:
    """Read the header of an NRRD or MetaImage file."""
    with path.open("rb") as file:
        return ItkHeader.parse(path, file.read(_MAX_HEADER))


def _blocks_of(file: Any) -> Iterator[bytes]:
    return iter(lambda: file.read(_BLOCK), b"")


def _inflate(file: Any) -> Iterator[bytes]:
    stream = zlib.decompressobj()
    while not stream.eof and (block := file.read(_BLOCK)):
        yield stream.decompress(block)
    if not stream.eof:
        raise VolumeError("the compressed voxels are cut short.")
