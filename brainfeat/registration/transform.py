"""A transform between two scans: apply, invert, save and load."""

__all__ = ["SpatialTransform"]

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from brainfeat.exceptions import InputError, VolumeError
from brainfeat.io.image_files import ImageSource
from brainfeat.io.itk_transforms import (
    read_affine,
    read_field,
    write_affine,
    write_field,
)
from brainfeat.io.json_files import read_json_object, write_json
from brainfeat.io.paths import expand_home
from brainfeat.io.volumes import read_labels, read_volume, to_image
from brainfeat.registration.field_grids import invert_field, straighten
from brainfeat.registration.warping import interpolate, sample_field, vote
from brainfeat.volume import Geometry, Volume

Affine = NDArray[np.float64]
Field = NDArray[np.float32]

_ENDINGS = (".nii.gz", ".txt", ".json")
_VOXELS_AT_ONCE = 1_000_000
_FIXED, _MOVING = "FixedGrid", "MovingGrid"  # keys of the JSON file


@dataclass(frozen=True, eq=False, kw_only=True)
class SpatialTransform:
    """Where each point of a fixed scan lies in a moving one.

    A point ``x`` of the fixed scan goes to ``affine(x + field(x))``, in scanner mm. So
    images are pulled from the moving scan to the grid of the fixed one.

    Parameters
    ----------
    affine : ndarray of shape (4, 4)
        Fixed scanner mm to moving scanner mm, RAS+.
    field : ndarray of shape (size_i, size_j, size_k, 3)
        Displacement in mm, RAS+; beyond its grid it fades to zero.
    grid : Geometry
        Grid of the field, in fixed scanner mm.
    fixed : Geometry
        Grid of the fixed scan.
    moving : Geometry
        Grid of the moving scan.
    inverse_field : ndarray of shape (size_i, size_j, size_k, 3), optional
        Displacement that takes ``x + field(x)`` back to ``x``; computed if it is not
        given.

    Raises
    ------
    VolumeError
        If a field does not have the shape of its grid, or is not finite.
    """

    affine: Affine
    field: Field
    grid: Geometry
    fixed: Geometry
    moving: Geometry
    inverse_field: Field | None = None

    def __post_init__(self) -> None:
        for field in (self.field, self.inverse_field):
            if field is None:
                continue
            if field.shape != (*self.grid.shape, 3) or not np.isfinite(field).all():
                raise VolumeError(
                    f"expected finite displacements of shape {self.grid.shape} and 3, "
                    f"got shape {field.shape}."
                )

    def apply(self, image: ImageSource) -> nib.Nifti1Image:
        """Resample an image of the moving scan to the fixed grid, linearly.

        Parameters
        ----------
        image : path-like or nibabel image
            On any grid in the scanner space of the moving scan.

        Returns
        -------
        Nifti1Image
            float32; 0 outside the image.

        Raises
        ------
        VolumeError
            If the file is no image of one volume.
        """
        return to_image(self.warp(read_volume(image)))

    def apply_labels(self, label_map: ImageSource) -> nib.Nifti1Image:
        """Resample a label map of the moving scan to the fixed grid.

        Each voxel gets the label of the largest weight, as if the masks of all labels
        were interpolated linearly.

        Parameters
        ----------
        label_map : path-like or nibabel image
            On any grid in the scanner space of the moving scan.

        Returns
        -------
        Nifti1Image
            int32; 0 outside the label map.

        Raises
        ------
        VolumeError
            If the file is no image of one volume of integers.
        """
        return to_image(self.warp(read_labels(label_map)))

    def warp(self, volume: Volume) -> Volume:
        """Resample a volume: integers are labels.

        Parameters
        ----------
        volume : Volume
            On any grid in the scanner space of the moving scan.

        Returns
        -------
        Volume
            On the fixed grid.
        """
        method = vote if volume.data.dtype.kind in "biu" else interpolate
        to_voxel = _inverse(volume.geometry.affine)
        kind = volume.data.dtype if method is vote else np.float32
        data = np.zeros(self.fixed.shape, kind)
        rows = max(1, _VOXELS_AT_ONCE // (self.fixed.shape[1] * self.fixed.shape[2]))
        for start in range(0, len(data), rows):
            part = data[start : start + rows]
            indices = np.indices(part.shape).reshape(3, -1).astype(np.float64)
            indices[0] += start
            points = self.map_points(_move(self.fixed.affine, indices))
            part[:] = method(volume.data, _move(to_voxel, points)).reshape(part.shape)
        return Volume(data, self.fixed)

    def map_points(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Move points of the fixed scan to the moving one.

        Parameters
        ----------
        points : ndarray of shape (3, n)
            Fixed scanner mm.

        Returns
        -------
        ndarray of shape (3, n)
            Moving scanner mm.
        """
        voxels = _move(_inverse(self.grid.affine), points)
        return _move(self.affine, points + sample_field(self.field, voxels))

    def invert(self) -> Self:
        """Return the transform from the moving scan to the fixed one.

        Returns
        -------
        SpatialTransform
            That takes points of the moving scan to the fixed one, and so images of
            the fixed scan to the grid of the moving one.
        """
        back = self.inverse_field
        if back is None:
            back = invert_field(self.field, self.grid)
        # With A the affine, points y of the moving scan go to z + back(z), z = A^-1 y:
        # A^-1 (y + A back(A^-1 y)), a field whose grid is moved by A.
        linear = self.affine[:3, :3].astype(np.float32)
        moved = Geometry(self.grid.shape, self.affine @ self.grid.affine)
        return type(self)(
            affine=_inverse(self.affine),
            field=back @ linear.T,
            grid=moved,
            fixed=self.moving,
            moving=self.fixed,
            inverse_field=self.field @ linear.T,
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the transform in the files of ITK, atomically.

        ``antsApplyTransforms -t NAME.nii.gz -t NAME.txt`` applies it, and so do a
        displacement field transform and an affine one of SimpleITK.

        Parameters
        ----------
        path : path-like
            Such as ``sub-01_from-T1w_to-MNI152_mode-image_xfm``, with or without an
            ending: ``.nii.gz`` is the field, ``.txt`` the affine that follows it, and
            ``.json`` has both grids.

        Returns
        -------
        Path
            The file of the field.
        """
        stem = _stem(path)
        transform = self._at_right_angles()
        write_affine(transform.affine, stem + ".txt")
        grids = {_FIXED: _describe(self.fixed), _MOVING: _describe(self.moving)}
        write_json(Path(stem + ".json"), grids)
        return write_field(transform.field, transform.grid, stem + ".nii.gz")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a transform that was saved, or one of ANTs with the same two files.

        Parameters
        ----------
        path : path-like
            As for `save`. Without a JSON file, both grids are that of the field.

        Returns
        -------
        SpatialTransform
            The transform.

        Raises
        ------
        InputError, VolumeError
            If a file is missing or is no transform.
        """
        stem = _stem(path)
        field, grid = read_field(stem + ".nii.gz")
        stored = read_json_object(Path(stem + ".json")) or {}
        fixed, moving = (
            _parse(stored[key], stem) if key in stored else grid
            for key in (_FIXED, _MOVING)
        )
        affine = read_affine(stem + ".txt")
        return cls(affine=affine, field=field, grid=grid, fixed=fixed, moving=moving)

    def _at_right_angles(self) -> Self:
        """Resample the field if its axes are not at right angles, as ITK needs."""
        field, grid = straighten(self.field, self.grid)
        return type(self)(
            affine=self.affine,
            field=field,
            grid=grid,
            fixed=self.fixed,
            moving=self.moving,
        )


def _move(affine: Affine, points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(affine[:3, :3] @ points + affine[:3, 3:])


def _inverse(affine: Affine) -> Affine:
    return np.asarray(np.linalg.inv(affine), np.float64)


def _stem(path: str | os.PathLike[str]) -> str:
    text = str(expand_home(path))
    for ending in _ENDINGS:
        text = text.removesuffix(ending)
    return text


def _describe(grid: Geometry) -> dict[str, Any]:
    return {"Shape": list(grid.shape), "Affine": grid.affine.tolist()}


def _parse(stored: Any, stem: str) -> Geometry:
    try:
        i, j, k = stored["Shape"]
        return Geometry((i, j, k), np.array(stored["Affine"], np.float64))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{stem}.json: expected the grids of a transform.") from error
