"""Affine transforms and displacement fields in the files of ITK.

In memory, affines and vectors are in RAS+ mm; the files are in LPS+ mm, as ITK, ANTs
and SimpleITK take them. A displacement field is applied before the affine.
"""

__all__ = ["read_affine", "read_field", "write_affine", "write_field"]

import os
import re
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from brainfeat.exceptions import GeometryError, InputError, VolumeError, brief_reason
from brainfeat.io.atomic import atomic_write
from brainfeat.io.image_files import existing_file
from brainfeat.io.paths import expand_home
from brainfeat.io.volumes import write_image
from brainfeat.volume import Geometry

Affine = NDArray[np.float64]
Field = NDArray[np.float32]

_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_VECTOR = 1007  # intent code; ITK turns the vectors of 1006 to and from RAS
_HEADER = "#Insight Transform File V1.0"
# What ITK and ANTs write of an affine: a 3 x 3 matrix, a shift, and a centre.
_LINEAR = re.compile(r"(Affine|MatrixOffsetTransformBase)\w*_(double|float)_3_3")


def write_affine(affine: Affine, path: str | os.PathLike[str]) -> Path:
    """Write an affine (4, 4) in RAS+ mm as ITK's text file, atomically."""
    target = expand_home(path)
    lps = _TO_LPS @ affine @ _TO_LPS
    values = [*lps[:3, :3].ravel(), *lps[:3, 3]]
    text = " ".join(repr(float(value)) for value in values)
    with atomic_write(target) as partial:
        partial.write_text(
            f"{_HEADER}\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
            f"Parameters: {text}\nFixedParameters: 0 0 0\n",
            encoding="utf-8",
        )
    return target


def read_affine(path: str | os.PathLike[str]) -> Affine:
    """Read an affine of ITK's text file, in RAS+ mm; InputError if it is none."""
    source = existing_file(path)
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{source}: not a readable transform ({brief_reason(error)})."
        ) from error
    entries = [line.partition(":") for line in lines if not line.startswith("#")]
    found = {key.strip(): text.strip() for key, _, text in entries}
    kinds = [text for key, _, text in entries if key.strip() == "Transform"]
    if len(kinds) != 1 or not _LINEAR.fullmatch(kinds[0].strip()):
        raise InputError(
            f"{source}: expected one affine transform of ITK, "
            f"got {', '.join(kinds) or 'none'}."
        )
    values = _numbers(found.get("Parameters", ""), 12, source)
    center = _numbers(found.get("FixedParameters", "0 0 0"), 3, source)
    lps = np.eye(4)
    lps[:3, :3] = values[:9].reshape(3, 3)
    lps[:3, 3] = values[9:] + center - lps[:3, :3] @ center
    return np.asarray(_TO_LPS @ lps @ _TO_LPS)


def write_field(field: Field, grid: Geometry, path: str | os.PathLike[str]) -> Path:
    """Write displacements (I, J, K, 3) in RAS+ mm as a NIfTI image of vectors.

    Raises a GeometryError if the axes of the grid are not at right angles, which ITK
    cannot read.
    """
    unit = grid.affine[:3, :3] / np.array(grid.spacing)
    if np.abs(unit.T @ unit - np.eye(3)).max() > 1e-4:
        raise GeometryError("expected a grid whose axes are at right angles.")
    lps = field * np.diag(_TO_LPS)[:3].astype(np.float32)
    image = nib.Nifti1Image(np.ascontiguousarray(lps[:, :, :, None]), grid.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_intent(_VECTOR)
    image.set_sform(grid.affine, code="scanner")
    image.set_qform(grid.affine, code="scanner", strip_shears=True)
    return write_image(image, path)


def read_field(path: str | os.PathLike[str]) -> tuple[Field, Geometry]:
    """Read displacements (I, J, K, 3) in RAS+ mm, and their grid."""
    source = existing_file(path)
    try:
        image = nib.Nifti1Image.from_filename(source)
        shape, lps = image.shape, np.asarray(image.dataobj, np.float32)
    except Exception as error:  # damaged files raise almost anything
        raise VolumeError(f"{source}: {brief_reason(error)}") from error
    if len(shape) != 5 or shape[3:] != (1, 3) or not np.isfinite(lps).all():
        raise VolumeError(
            f"{source}: expected finite displacements of shape (I, J, K, 1, 3), got "
            f"shape {shape}."
        )
    field = lps[:, :, :, 0] * np.diag(_TO_LPS)[:3].astype(np.float32)
    return field, Geometry(shape[:3], image.affine)


def _numbers(text: str, count: int, source: Path) -> NDArray[np.float64]:
    try:
        values = np.array([float(word) for word in text.split()])
    except ValueError:
        values = np.empty(0)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise InputError(f"{source}: expected {count} numbers, got {text[:80]!r}.")
    return values
