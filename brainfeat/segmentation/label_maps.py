"""``y`` in each of its forms as one label map a subject."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from nibabel.spatialimages import SpatialImage
from pandas.api.extensions import ExtensionArray

from brainfeat.exceptions import InputError, VolumeNotFoundError
from brainfeat.io.image_files import ImageSource
from brainfeat.io.volumes import read_labels, split_volumes, to_image
from brainfeat.subjects.failures import adding_context
from brainfeat.subjects.owners import find_owner
from brainfeat.subjects.subject import Subject
from brainfeat.subjects.table import find_path
from brainfeat.volume import Volume

__all__ = ["as_label_maps", "name_of", "read_label_map"]


def as_label_maps(y: Any, subjects: Sequence[Subject]) -> list[ImageSource]:
    """Read ``y`` in any of its forms; no voxel of a list of paths is loaded.

    Parameters
    ----------
    y : list, Series, array of paths, path-like or image
        One label map a subject, in the order of ``X``; one 4D image holds a label map
        in each of its volumes.
    subjects : sequence of Subject
        Whom they belong to.

    Returns
    -------
    list of path-like or nibabel image
        One a subject.

    Raises
    ------
    InputError
        If ``y`` has another form, length or order, or a subject has no label map.
    VolumeNotFoundError
        If a path does not exist.
    """
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


def name_of(source: ImageSource, subject: Subject) -> str:
    """Name a label map in messages.

    Parameters
    ----------
    source : path-like or nibabel image
        The label map.
    subject : Subject
        Whom it belongs to.

    Returns
    -------
    str
        Its path, or else the subject's name.
    """
    if isinstance(source, SpatialImage):
        return source.get_filename() or f"label map of {subject.participant_id}"
    return os.fspath(source)


def read_label_map(source: ImageSource, subject: Subject) -> Volume:
    """Read a label map.

    Parameters
    ----------
    source : path-like or nibabel image
        The label map.
    subject : Subject
        Whom it belongs to.

    Returns
    -------
    Volume
        Labels as int32.

    Raises
    ------
    VolumeError
        If it cannot be read; the error begins with the name of the label map.
    """
    name = name_of(source, subject)
    with adding_context(Subject(name, {})):
        return read_labels(source)


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
    # As they are stored: float32 does not hold every label.
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
            "nibabel.Nifti1Image(array, affine) places it."
        )
    if value is None or value is pd.NA or value == "" or value != value:
        raise InputError(f"{subject.participant_id}: expected a label map, got none.")
    if not isinstance(value, str | os.PathLike):
        raise InputError(
            f"{subject.participant_id}: expected the path or image of a label map, "
            f"got {type(value).__name__}."
        )
    path, is_there = find_path(value)
    if not is_there:
        raise VolumeNotFoundError(
            f"{path}: no such file (label map of {subject.participant_id})."
        )
    return path


# All brains lie alike: labels of another subject would be learnt without an error.


def _check_index(y: Any, subjects: Sequence[Subject]) -> None:
    if not isinstance(y, pd.Series | pd.DataFrame):
        return
    names = [subject.participant_id for subject in subjects]
    found = [str(label) for label in y.index]
    # An index that only counts the rows says nothing, nor does a part of one that
    # counts from another number.
    if names == [str(index) for index in range(len(names))]:
        return
    is_shared = set(found) == set(names)
    if not pd.api.types.is_integer_dtype(y.index):
        is_shared = not set(found).isdisjoint(names)
    if not is_shared:
        return
    for given, expected in zip(found, names, strict=True):
        if given != expected:
            raise InputError(
                "y: expected the rows of X in their order, got an index with "
                f"{given!r} where X has {expected!r}."
            )


def _check_owner(source: ImageSource, subject: Subject) -> None:
    name, images = name_of(source, subject), subject.paths.values()
    # However it is written: a manifest has relative paths for label maps.
    if os.path.realpath(name) in map(os.path.realpath, images):
        raise InputError(f"{name}: expected a label map, got the image itself.")
    given = find_owner(name)
    for image in images or [subject.participant_id]:
        expected = find_owner(image)
        for entity in expected.keys() & given.keys():
            if expected[entity].lstrip("0") != given[entity].lstrip("0"):
                raise InputError(
                    f"{name}: expected a label map of "
                    f"{entity}-{expected[entity]}, as {image} is, "
                    f"got one of {entity}-{given[entity]}."
                )
