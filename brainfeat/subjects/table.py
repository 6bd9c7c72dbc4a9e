"""X of estimators, in any of its forms, as subjects."""

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nibabel.spatialimages import SpatialImage
from pandas.api.extensions import ExtensionArray
from sklearn.utils import Tags

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.exceptions import (
    InputError,
    ModalityError,
    VolumeError,
    VolumeNotFoundError,
)
from brainfeat.io.file_kinds import describe_absence, describe_dicom, is_address
from brainfeat.io.image_files import ImageSource
from brainfeat.io.paths import expand_home
from brainfeat.io.volumes import split_volumes, to_image
from brainfeat.subjects.bids.entities import BIDS_SUFFIXES, bids_suffix
from brainfeat.subjects.subject import Subject
from brainfeat.volume import Volume

__all__ = [
    "SubjectTable",
    "as_subjects",
    "check_fitted_modalities",
    "check_modality",
    "check_subject",
    "find_path",
    "read_subjects",
    "tag_images",
]

_FORMS = (
    "a list of paths or images, a list of {modality: image} dicts, a Series, a "
    "DataFrame with a column per modality, a glob, or one 4D image"
)


@dataclass(frozen=True, eq=False)
class SubjectTable:
    """X as subjects in its order, and its modalities in the checkpoint's order."""

    rows: tuple[Subject, ...]
    modalities: tuple[str, ...]


def as_subjects(
    X: Any, *, modality: str | None, modalities: Sequence[str], allow_missing: bool
) -> SubjectTable:
    """Read X in any form that `BrainFoundEmbedder.fit` takes; no voxel is loaded.

    Images without a modality get ``modality``, else that of the name of the Series,
    else that of their BIDS suffix, else the first of ``modalities``, which are the
    checkpoint's. ``allow_missing`` allows subjects that lack some.
    """
    check_modality(modality, modalities)
    reader = _Reader(modality, tuple(modalities))
    columns: Sequence[str] = ()
    if isinstance(X, pd.DataFrame):
        columns = reader.columns(X)
        rows = reader.frame_rows(X, columns)
    elif isinstance(X, pd.Series):
        rows = reader.series_rows(X)
    else:
        rows = reader.list_rows(_as_list(X))
    if not rows:
        raise InputError(f"X: expected at least one subject as {_FORMS}, got none.")
    for row in rows:
        check_subject(row, modalities=modalities, allow_missing=allow_missing)
    named = {*columns, *(name for row in rows for name in row.images)}
    return SubjectTable(tuple(rows), tuple(m for m in modalities if m in named))


def read_subjects(X: Any, checkpoint: Checkpoint, modality: str | None) -> SubjectTable:
    """Read X as subjects with the modalities that a checkpoint allows."""
    config = checkpoint.config
    return as_subjects(
        X,
        modality=modality,
        modalities=config.encoder.modalities,
        allow_missing=config.missing_modalities,
    )


def check_modality(modality: str | None, modalities: Sequence[str]) -> None:
    """Check that the modality of images that come without one is known."""
    if modality is not None:
        _check_known(modality, modalities, "modality")


def check_subject(
    subject: Subject, *, modalities: Sequence[str], allow_missing: bool
) -> None:
    """Check that a subject has known modalities, and all if none may be missing."""
    for name in subject.images:
        _check_known(name, modalities, subject.participant_id)
    missing = [m for m in modalities if subject.images.get(m) is None]
    if len(missing) == len(modalities):
        raise ModalityError(
            f"{subject.participant_id}: expected at least one image of "
            f"{_joined(modalities)}, got none."
        )
    if missing and not allow_missing:
        raise ModalityError(
            f"{subject.participant_id}: no {_joined(missing)} image, and the "
            "checkpoint was not trained for missing modalities."
        )


def check_fitted_modalities(
    estimator: object, fitted: tuple[str, ...], modalities: Iterable[str]
) -> None:
    """Check that an estimator was fitted on all modalities that X has now."""
    given = tuple(modalities)
    if not set(given) <= set(fitted):
        raise ModalityError(
            f"{type(estimator).__name__} was fitted on modalities {fitted}, "
            f"got {given}."
        )


def tag_images(tags: Tags) -> Tags:
    """Tell scikit-learn that X holds images, of which some may be missing."""
    tags.input_tags.two_d_array = False
    tags.input_tags.string = True  # paths
    tags.input_tags.allow_nan = True  # a modality that a subject lacks
    return tags


def find_path(value: str | os.PathLike[str]) -> tuple[Path, bool]:
    """Expand ``~``, and return whether there is a file or folder."""
    path = expand_home(value)
    try:
        return path, path.exists()
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read ({error.strerror}).") from error


@dataclass(frozen=True)
class _Reader:
    """The forms of X that hold several images."""

    modality: str | None
    modalities: tuple[str, ...]

    def columns(self, X: pd.DataFrame) -> list[str]:
        # A single column may have any name, as a bare list has none.
        if self.modality is not None and len(X.columns) == 1:
            unnamed = X.columns[0] not in self.modalities
            return [self.modality if unnamed else str(X.columns[0])]
        for column in X.columns:
            _check_known(column, self.modalities, "X: column")
        if not X.columns.is_unique:
            raise InputError(
                f"X: expected one column per modality, got {list(X.columns)}."
            )
        return [str(column) for column in X.columns]

    def frame_rows(self, X: pd.DataFrame, columns: Sequence[str]) -> list[Subject]:
        rows = []
        for label, values in zip(
            X.index, X.itertuples(index=False, name=None), strict=True
        ):
            cells = dict(zip(columns, values, strict=True))
            rows.append(self._named_row(f"X row {label!r}", str(label), cells))
        return rows

    def series_rows(self, X: "pd.Series[Any]") -> list[Subject]:
        rows = []
        for label, value in zip(X.index, X.tolist(), strict=True):
            where = f"X row {label!r}"
            if isinstance(value, Mapping):
                rows.append(self._named_row(where, str(label), value))
                continue
            image = _image(value, where)
            named = X.name if X.name in self.modalities else None
            name = self.modality or (str(named) if named else self._modality_of(image))
            rows.append(Subject(str(label), {name: image}))
        return rows

    def list_rows(self, samples: Iterable[Any]) -> list[Subject]:
        rows = []
        for index, sample in enumerate(samples):
            where = f"X[{index}]"
            if isinstance(sample, Subject):  # as read from a manifest
                rows.append(sample)
                continue
            if isinstance(sample, Mapping):
                rows.append(self._named_row(where, None, sample))
                continue
            for image in _images(sample, where):
                modality = self.modality or self._modality_of(image)
                name = str(image) if isinstance(image, Path) else where
                rows.append(Subject(name, {modality: image}))
        return rows

    def _named_row(
        self, where: str, name: str | None, cells: Mapping[Any, Any]
    ) -> Subject:
        images = {}
        for modality, value in cells.items():
            _check_known(modality, self.modalities, where)
            images[str(modality)] = _image(value, f"{where}, {modality}")
        paths = [str(image) for image in images.values() if isinstance(image, Path)]
        return Subject(name or next(iter(paths), where), images)

    def _modality_of(self, image: ImageSource | None) -> str:
        if not isinstance(image, Path):
            return self.modalities[0]
        suffix = bids_suffix(image.name)
        known = {modality.casefold(): modality for modality in self.modalities}
        if suffix.casefold() in known:
            return known[suffix.casefold()]
        if suffix.casefold() in BIDS_SUFFIXES:
            raise ModalityError(
                f"{image}: unknown modality {suffix!r} (its BIDS suffix), expected one "
                f"of {_joined(self.modalities)}; modality= overrules the name."
            )
        return self.modalities[0]


def _as_list(X: Any) -> Sequence[Any]:
    if isinstance(X, str | os.PathLike):
        return _volumes(_matches(X, "X"))
    if isinstance(X, SpatialImage):
        return split_volumes(X)
    if isinstance(X, Volume):
        return [X]
    if isinstance(X, Mapping):
        raise InputError(
            f"X: expected {_FORMS}, got one dict; pandas.DataFrame(X) makes a dict of "
            "lists a table, [X] makes a dict of images one subject."
        )
    if isinstance(X, np.ndarray):
        if X.ndim == 1 and X.dtype.kind in "OUT":
            return list(X)
        raise InputError(
            f"X: expected {_FORMS}, got an array of {X.dtype} of shape {X.shape}."
        )
    if isinstance(X, list | tuple | pd.Index | ExtensionArray):
        return list(X)
    raise InputError(f"X: expected {_FORMS}, got {type(X).__name__}.")


def _volumes(paths: Sequence[Path]) -> Sequence[Any]:
    return split_volumes(paths[0]) if len(paths) == 1 else paths


def _images(value: Any, where: str) -> Sequence[ImageSource | None]:
    if isinstance(value, str | os.PathLike) and os.fspath(value) != "":
        return _matches(value, where)
    return [_image(value, where)]


def _image(value: Any, where: str) -> ImageSource | None:
    if _is_missing(value):
        return None
    if isinstance(value, SpatialImage):
        return value
    if isinstance(value, Volume):
        return to_image(value)
    if not isinstance(value, str | os.PathLike):
        raise InputError(
            f"{where}: expected a path or an image, got {type(value).__name__}."
        )
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


def _check_known(name: Any, modalities: Sequence[str], where: str) -> None:
    if name not in modalities:
        raise ModalityError(
            f"{where}: unknown modality {name!r}, expected one of "
            f"{_joined(modalities)}."
        )


def _joined(modalities: Sequence[str]) -> str:
    return ", ".join(modalities)
