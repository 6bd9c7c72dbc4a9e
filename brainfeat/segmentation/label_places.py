"""Where label maps lie in the scanner, beside the image that they belong to."""

from typing import Any

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from brainfeat.exceptions import InputError
from brainfeat.io.image_files import ImageSource
from brainfeat.io.volumes import read_labels
from brainfeat.preprocessing.resampling import reorient_to_ras, resample
from brainfeat.segmentation.label_maps import name_of
from brainfeat.subjects.subject import Subject
from brainfeat.volume import Geometry, Volume

__all__ = ["check_place", "lies_beside", "read_on_image"]


def read_on_image(
    source: ImageSource, subject: Subject, image: Geometry
) -> NDArray[np.int32]:
    """Read a label map on the grid of its image.

    Parameters
    ----------
    source : path-like or nibabel image
        On any grid that lies with the image in scanner space.
    subject : Subject
        Whom it belongs to.
    image : Geometry
        Of the subject's first image.

    Returns
    -------
    ndarray of int32 of the image's shape
        Labels; 0 outside the label map.

    Raises
    ------
    InputError
        If it has no place, or one beside the image.
    """
    name, label_map = name_of(source, subject), read_labels(source)
    check_place(label_map, image, name)
    if label_map.geometry.is_close(image):
        return label_map.data
    labels: NDArray[Any] = resample(
        reorient_to_ras(label_map), image, np.eye(4), interpolation="nearest"
    )
    if not labels.any() and lies_beside(label_map, image, np.eye(4)):
        raise InputError(
            f"{name}: expected labels where the image of {subject.participant_id} lies "
            "in scanner space, got none there; is its header another image's?"
        )
    return labels


def check_place(label_map: Volume, image: Geometry, name: str) -> None:
    """Check that a label map did not lose its place in the scanner.

    Parameters
    ----------
    label_map : Volume
        In scanner space.
    image : Geometry
        Of the image that it belongs to.
    name : str
        Of the label map, for messages.

    Raises
    ------
    InputError
        If it has the voxels of its image, and nothing that places them.
    """
    is_placed = not np.array_equal(label_map.geometry.affine, np.eye(4))
    if is_placed or label_map.geometry.shape != image.shape:
        return
    if not label_map.geometry.is_close(image):
        raise InputError(
            f"{name}: expected the affine of its image, whose shape it has, got the "
            "identity; nibabel.Nifti1Image(array, image.affine) keeps it."
        )


def lies_beside(
    label_map: Volume, grid: Geometry, grid_to_scanner: NDArray[np.float64]
) -> bool:
    """Whether it has labels, but none in a grid, not even one too small for its voxels.

    Parameters
    ----------
    label_map : Volume
        In scanner space.
    grid : Geometry
        In a world of its own.
    grid_to_scanner : ndarray of shape (4, 4)
        Maps that world to scanner space.

    Returns
    -------
    bool
        False for a label map of background only.
    """
    to_voxels = np.linalg.inv(grid_to_scanner @ grid.affine) @ label_map.geometry.affine
    labelled = np.argwhere(label_map.data)
    voxels = apply_affine(to_voxels, labelled)
    last = np.array(grid.shape) - 1
    is_inside = ((voxels > -0.5) & (voxels < last + 0.5)).all(axis=1)
    return len(labelled) > 0 and not is_inside.any()
