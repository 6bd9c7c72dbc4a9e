"""NRRD and MetaImage files, read with SimpleITK after checks of their headers."""

__all__ = ["read_itk", "read_itk_grid"]

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainfeat.exceptions import VolumeError
from brainfeat.io.itk_header import ItkHeader, read_itk_header
from brainfeat.io.nifti_header import NO_ORIENTATION, check_size, describe_unit
from brainfeat.io.stored_voxels import StoredVoxels, check_volumes

_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK has LPS


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
