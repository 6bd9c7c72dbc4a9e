"""Label maps: ``y`` in any form, checked against images."""

__all__ = [
    "as_label_maps",
    "check_classes",
    "check_placement",
    "label_map_name",
    "lies_outside",
    "read_label_map",
    "read_on_image",
]

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from nibabel.affines import apply_affine
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray
from pandas.api.extensions import ExtensionArray

from brainfeat.exceptions import InputError, VolumeNotFoundError
from brainfeat.io.image_files import ImageSource
from brainfeat.io.volumes import read_labels, split_volumes, to_image
from brainfeat.preprocessing.resampling import reorient_to_ras, resample
from brainfeat.subjects.failures import adding_context
from brainfeat.subjects.owners import find_owner
from brainfeat.subjects.samples import find_path
from brainfeat.subjects.subject import Subject
from brainfeat.volume import Geometry, Volume


def as_label_maps(y: Any, subjects: Sequence[Subject]) -> list[ImageSource]:
    """Return one path or image a subject, in their order, without reading voxels."""
    values = _as_list(y)
    if len(values) != len(subjects):
        raise InputError(
            f"y: expected one label map for each of {len(subjects)} subjects, "
            f"got {len(values)}."
        )
    _check_index(y, subjects)
    label_maps = [_label_map(v, s) for v, s in zip(values, subjects, strict=True)]
    for source, subject in zip(label_maps, subjects, strict=True):
        _check_owner(source, subject)
    return label_maps


def label_map_name(source: ImageSource, subject: Subject) -> str:
    """Name a label map in messages: its path, or else its subject."""
    if isinstance(source, SpatialImage):
        return source.get_filename() or f"label map of {subject.participant_id}"
    return os.fspath(source)


def read_label_map(source: ImageSource, subject: Subject) -> Volume:
    """Read labels as int32; errors begin with the name of the label map."""
    with adding_context(Subject(label_map_name(source, subject), {})):
        return read_labels(source)


def read_on_image(
    source: ImageSource, subject: Subject, image: Geometry
) -> NDArray[np.int32]:
    """Read a label map on the grid of its image; 0 outside the label map."""
    name, label_map = label_map_name(source, subject), read_label_map(source, subject)
    check_placement(label_map, image, name)
    if label_map.geometry.is_close(image):
        return label_map.data
    labels: NDArray[Any] = resample(
        reorient_to_ras(label_map), image, np.eye(4), interpolation="nearest"
    )
    if not labels.any() and lies_outside(label_map, image, np.eye(4)):
        raise InputError(
            f"{name}: expected labels where the image of {subject.participant_id} lies "
            "in scanner space, got none there; is its header another image's?"
        )
    return labels


def check_classes(source: ImageSource, subject: Subject, known: Sequence[int]) -> None:
    """Refuse a label map with other classes than those of the training."""
    present = np.unique(read_label_map(source, subject).data).tolist()
    if unknown := sorted(set(present) - set(known)):
        raise InputError(
            f"{label_map_name(source, subject)}: expected classes of the training "
            f"{[*known]}, got {unknown} too."
        )


def check_placement(label_map: Volume, image: Geometry, name: str) -> None:
    """Refuse a label map of its image's shape whose affine was lost."""
    is_placed = not np.array_equal(label_map.geometry.affine, np.eye(4))
    if is_placed or label_map.geometry.shape != image.shape:
        return
    if not label_map.geometry.is_close(image):
        raise InputError(
            f"{name}: expected the affine of its image, whose shape it has, got the "
            "identity; nibabel.Nifti1Image(array, image.affine) keeps it."
        )


def lies_outside(
    label_map: Volume, grid: Geometry, grid_to_scanner: NDArray[np.float64]
) -> bool:
    """Whether there are labels, but none has its centre in a voxel of the grid.

    Labels smaller than the voxels of the grid count as inside. ``grid_to_scanner``
    (4, 4) maps the grid's millimetres to the scanner's.
    """
    to_voxels = np.linalg.inv(grid_to_scanner @ grid.affine) @ label_map.geometry.affine
    labelled = np.argwhere(label_map.data)
    voxels = apply_affine(to_voxels, labelled)
    last = np.array(grid.shape) - 1
    is_inside = ((voxels > -0.5) & (voxels < last + 0.5)).all(axis=1)
    return len(labelled) > 0 and not is_inside.any()


def _as_list(y: Any) -> Sequence[Any]:
    if isinstance(y, pd.DataFrame):
        if len(y.columns) != 1:
            raise InputError(f"y: expected one column, got {list(y.columns)}.")
        return y.iloc[:, 0].tolist()
    if isinstance(y, pd.Series):
        return y.tolist()
    if isinstance(y, SpatialImage):
        return _split(y)
    if isinstance(y, Volume | str | os.PathLike):
        return [y]
    if isinstance(y, list | tuple | pd.Index | ExtensionArray):
        return list(y)
    if isinstance(y, np.ndarray) and y.ndim == 1 and y.dtype.kind in "OUT":
        return list(y)
    raise InputError(
        "y: expected a list of paths or images of label maps, one a subject, "
        f"got {type(y).__name__}."
    )


def _split(image: Any) -> Sequence[ImageSource]:
    if len(image.shape) != 4 or image.shape[3] == 1:
        return split_volumes(image)
    # Sliced as stored: float32 does not hold every label.
    return [image.slicer[..., index] for index in range(image.shape[3])]


def _label_map(value: Any, subject: Subject) -> ImageSource:
    if isinstance(value, SpatialImage):
        return value
    if isinstance(value, Volume):
        return to_image(value)
    if isinstance(value, np.ndarray):
        raise InputError(
            f"{subject.participant_id}: expected the path or image of a label map, "
            f"got an array of shape {value.shape}; "
            "nibabel.Nifti1Image(array, affine) gives it an affine."
        )
    if value is None or value is pd.NA or value == "" or value != value:
        raise InputError(f"{subject.participant_id}: expected a label map, got none.")
    if not isinstance(value, str | os.PathLike):
        raise InputError(
            f"{subject.participant_id}: expected the path or image of a label map, "
            f"got {type(value).__name__}."
        )
    path, exists = find_path(value)
    if not exists:
        raise VolumeNotFoundError(
            f"{path}: no such file (label map of {subject.participant_id})."
        )
    return path


def _check_index(y: Any, subjects: Sequence[Subject]) -> None:
    # Brains are aligned, so swapped label maps would train without an error.
    if not isinstance(y, pd.Series | pd.DataFrame):
        return
    names = [subject.participant_id for subject in subjects]
    labels = [str(label) for label in y.index]
    # A default index identifies no subject, nor does a slice of one.
    if names == [str(index) for index in range(len(names))]:
        return
    is_shared = set(labels) == set(names)
    if not pd.api.types.is_integer_dtype(y.index):
        is_shared = not set(labels).isdisjoint(names)
    if not is_shared:
        return
    for label, expected in zip(labels, names, strict=True):
        if label != expected:
            raise InputError(
                "y: expected the rows of X in their order, got an index with "
                f"{label!r} where X has {expected!r}."
            )


def _check_owner(source: ImageSource, subject: Subject) -> None:
    name, images = label_map_name(source, subject), subject.paths.values()
    # Compared as real paths: those of a manifest may be relative.
    if os.path.realpath(name) in map(os.path.realpath, images):
        raise InputError(f"{name}: expected a label map, got the image itself.")
    owner = find_owner(name)
    for image in images or [subject.participant_id]:
        expected = find_owner(image)
        for entity in expected.keys() & owner.keys():
            if expected[entity].lstrip("0") != owner[entity].lstrip("0"):
                raise InputError(
                    f"{name}: expected a label map of "
                    f"{entity}-{expected[entity]}, as {image} is, "
                    f"got one of {entity}-{owner[entity]}."
                )
