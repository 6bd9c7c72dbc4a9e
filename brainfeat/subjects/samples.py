"""Samples of X in any form: paths, globs, images, and frames of other libraries."""

import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nibabel.spatialimages import SpatialImage
from pandas.api.extensions import ExtensionArray

from brainfeat.exceptions import InputError, VolumeError, VolumeNotFoundError
from brainfeat.io.file_kinds import describe_absence, describe_dicom, is_address
from brainfeat.io.image_files import ImageSource
from brainfeat.io.paths import expand_home
from brainfeat.io.volumes import split_volumes, to_image
from brainfeat.subjects.bids.index import is_bids_folder
from brainfeat.volume import Volume

__all__ = [
    "FORMS",
    "find_path",
    "list_samples",
    "read_image_source",
    "read_image_sources",
    "to_pandas",
]

FORMS = (
    "a list of paths or images, a list of {modality: image} dicts, a Series, a "
    "DataFrame with a column per modality, a glob, or one 4D image"
)


def find_path(value: str | os.PathLike[str]) -> tuple[Path, bool]:
    """Expand ``~``, and return whether there is a file or folder."""
    path = expand_home(value)
    try:
        return path, path.exists()
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read ({error.strerror}).") from error


def list_samples(X: Any) -> Sequence[Any]:
    """Return the samples of an X that is no frame."""
    if isinstance(X, str | os.PathLike):
        paths = _matches(X, "X")
        return split_volumes(paths[0]) if len(paths) == 1 else paths
    if isinstance(X, SpatialImage):
        return split_volumes(X)
    if isinstance(X, Volume):
        return [X]
    if isinstance(X, Mapping):
        raise InputError(
            f"X: expected {FORMS}, got one dict; pandas.DataFrame(X) makes a dict of "
            "lists a table, [X] makes a dict of images one subject."
        )
    if isinstance(X, np.ndarray):
        is_column = X.ndim == 1 or (X.ndim == 2 and X.shape[1] == 1)
        if is_column and X.dtype.kind in "OUT":
            return list(X.reshape(-1))
        raise InputError(
            f"X: expected {FORMS}, got an array of {X.dtype} of shape {X.shape}."
        )
    if isinstance(X, list | tuple | pd.Index | ExtensionArray):
        return list(X)
    raise InputError(f"X: expected {FORMS}, got {_kind(X)}.")


def to_pandas(X: Any) -> Any:
    """Convert frames and columns of polars, pyarrow and others."""
    if isinstance(X, pd.DataFrame | pd.Series | pd.Index):
        return X
    if hasattr(X, "to_pandas"):
        return X.to_pandas()
    if hasattr(X, "__dataframe__"):
        return pd.api.interchange.from_dataframe(X)
    return X


def _kind(value: Any) -> str:
    """Name the type of a value, and for images of other libraries the way to go."""
    kind = type(value)
    library = kind.__module__.partition(".")[0]
    if library == "SimpleITK":
        return (
            "a SimpleITK.Image; write it by SimpleITK.WriteImage(image, 'scan.nii.gz') "
            "and give the path"
        )
    if hasattr(value, "affine"):
        return (
            f"{kind.__name__} of {library}; wrap its array of three axes as "
            "nibabel.Nifti1Image(array, affine)"
        )
    if library == "torch" or isinstance(value, np.ndarray):
        return f"{kind.__name__}, which has no affine; use nibabel.Nifti1Image"
    return kind.__name__


def read_image_sources(value: Any, where: str) -> Sequence[ImageSource | None]:
    """Return the images of a sample: several if it is a glob."""
    if isinstance(value, str | os.PathLike) and os.fspath(value) != "":
        return _matches(value, where)
    return [read_image_source(value, where)]


def read_image_source(value: Any, where: str) -> ImageSource | None:
    """Return the image of a cell; None if it is missing."""
    if _is_missing(value):
        return None
    if isinstance(value, SpatialImage):
        return value
    if isinstance(value, Volume):
        return to_image(value)
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"{where}: expected a path or an image, got {_kind(value)}.")
    paths = _matches(value, where)
    if len(paths) > 1:
        raise InputError(
            f"{where}: expected one image, got {len(paths)} that match "
            f"{os.fspath(value)}."
        )
    return paths[0]


def _is_missing(value: Any) -> bool:
    if value is None or value is pd.NA or value is pd.NaT:
        return True
    if isinstance(value, str):
        return value == ""
    return isinstance(value, float) and bool(np.isnan(value))


def _matches(value: str | os.PathLike[str], where: str) -> list[Path]:
    path, is_there = find_path(value)
    if path.is_dir():
        mend = f"; a glob such as {path / '*.nii.gz'} names the images in it"
        if is_bids_folder(path):
            mend = f" in BIDS; brainfeat.load_bids({os.fspath(path)!r}) gives X"
        dicom = describe_dicom(path)
        what = f"a folder{mend}" if dicom is None else f"a folder of {dicom}"
        raise InputError(f"{path}: expected image files, got {what}.")
    # A name that exists is no pattern, even if it holds brackets.
    if is_there:
        return [path]
    if glob.has_magic(str(path)) and not is_address(str(path)):
        # Path.glob would also find hidden files, such as macOS's "._sub-01.nii.gz".
        matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207  # see above
        if matches:
            return [Path(name) for name in matches]
        raise VolumeNotFoundError(f"{path}: {where} matches no file.")
    raise VolumeNotFoundError(f"{path}: {describe_absence(path)}.")
