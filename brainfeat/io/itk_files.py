"""NRRD and MetaImage files, read with SimpleITK after checks of their headers."""

__all__ = ["ITK_SUFFIXES", "ItkHeader", "read_itk", "read_itk_grid", "read_itk_header"]

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from isal import igzip
from numpy.typing import NDArray

from brainfeat.exceptions import VolumeError
from brainfeat.io.nifti_header import NO_ORIENTATION, check_size, describe_unit
from brainfeat.io.stored_voxels import StoredVoxels, check_volumes

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
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK has LPS


class ItkHeader(NamedTuple):
    """Where the voxels of a file lie, and in which unit and orientation.

    The fields have names in lower case; ``n_bytes`` is the size of the header.
    """

    path: Path
    fields: Mapping[str, str]
    n_bytes: int

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
        start = file.read(_MAX_HEADER)
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
    return ItkHeader(path, fields, position)


def _blocks_of(file: Any) -> Iterator[bytes]:
    return iter(lambda: file.read(_BLOCK), b"")


def _inflate(file: Any) -> Iterator[bytes]:
    stream = zlib.decompressobj()
    while not stream.eof and (block := file.read(_BLOCK)):
        yield stream.decompress(block)
    if not stream.eof:
        raise VolumeError("the compressed voxels are cut short.")


def read_itk(path: Path, memory_limit: int, n_volumes: int | None) -> StoredVoxels:
    """Read the voxels of a file with SimpleITK."""
    header, reader = _open(path)
    shape, dtype = tuple(reader.GetSize()), _dtype_of(reader)
    check_volumes(shape, dtype, n_volumes)
    files = (path, header.data_file or path)
    check_size(
        shape,
        dtype,
        n_bytes_on_disk=sum(file.stat().st_size for file in {*files}),
        memory_limit=memory_limit,
        compression="gzip",
    )
    header.check_voxels(int(np.prod(shape)) * dtype.itemsize)
    try:
        raw = _sitk().GetArrayFromImage(reader.Execute()).T
    except RuntimeError as error:
        raise VolumeError("damaged voxels.") from error
    notes = describe_unit(header.millimetres)
    if not header.is_oriented:
        notes = (*notes, NO_ORIENTATION.format("LPS"))
    return StoredVoxels(str(path), raw, _affine_of(reader, header), notes=notes)


def read_itk_grid(path: Path) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Return the shape and the affine of a file whose voxels were read before."""
    header, reader = _open(path)
    return tuple(reader.GetSize()), _affine_of(reader, header)


def _open(path: Path) -> tuple[ItkHeader, Any]:
    reader = _sitk().ImageFileReader()
    reader.SetFileName(str(path))
    header = read_itk_header(path)
    if not {"sizes", "dimsize"} & {*header.fields}:
        raise VolumeError("damaged header (it has no sizes).")
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:  # its text names a file that does not exist
        raise VolumeError("damaged header, or one that ITK does not know.") from error
    return header, reader


def _sitk() -> Any:
    import SimpleITK as sitk  # slow, and rarely needed

    sitk.ProcessObject.GlobalWarningDisplayOff()
    return sitk


def _dtype_of(reader: Any) -> np.dtype[Any]:
    n_components = reader.GetNumberOfComponents()
    if n_components > 1:
        raise VolumeError(
            f"expected one value a voxel, got {n_components}; save one of them as a "
            "3D image."
        )
    # Such as "16-bit unsigned integer" or "complex of 32-bit float".
    name = _sitk().GetPixelIDValueAsString(reader.GetPixelID())
    if name.startswith("complex"):
        return np.dtype(np.complex64)
    kind = "f" if "float" in name else "u" if "unsigned" in name else "i"
    return np.dtype(f"{kind}{int(name.split('-')[0]) // 8}")


def _affine_of(reader: Any, header: ItkHeader) -> NDArray[np.float64]:
    n = reader.GetDimension()
    axes = np.reshape(reader.GetDirection(), (n, n)) * reader.GetSpacing()
    affine = np.eye(4)
    affine[:3, :3] = axes[:3, :3]
    affine[:3, 3] = reader.GetOrigin()[:3]
    affine[:3] *= header.millimetres
    return _TO_RAS @ affine
