"""X of estimators, in any of its forms, as subjects."""

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from nibabel.spatialimages import SpatialImage
from sklearn.utils import Tags

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.exceptions import InputError, ModalityError, VolumeNotFoundError
from brainfeat.io.image_files import ImageSource
from brainfeat.io.paths import expand_home, has_image_suffix
from brainfeat.subjects.contrast_notes import ContrastNotes
from brainfeat.subjects.contrasts import unknown_channel, unknown_contrast
from brainfeat.subjects.image_names import (
    CONTRAST_AGENT,
    find_channels,
    read_image_name,
)
from brainfeat.subjects.samples import (
    FORMS,
    list_samples,
    read_image_source,
    read_image_sources,
    to_pandas,
)
from brainfeat.subjects.subject import Subject
from brainfeat.volume import Volume

__all__ = [
    "SubjectTable",
    "as_subjects",
    "check_fitted_modalities",
    "check_modality",
    "check_subject",
    "read_subjects",
    "tag_images",
]


@dataclass(frozen=True, eq=False)
class SubjectTable:
    """X as subjects in its order, and its modalities in the checkpoint's order."""

    rows: tuple[Subject, ...]
    modalities: tuple[str, ...]


def as_subjects(
    X: Any,
    *,
    modality: str | None,
    modalities: Sequence[str],
    allow_missing: bool,
    usable: bool = True,
) -> SubjectTable:
    """Read X in any form that `BrainFoundEmbedder.fit` takes; no voxel is loaded.

    Images without a modality get ``modality``, else that of the name of the Series,
    else that of their name, else the first of ``modalities``, which are the
    checkpoint's. ``allow_missing`` allows subjects that lack some. Files and modalities
    that are missing are errors if subjects must be ``usable``.
    """
    check_modality(modality, modalities)
    X = to_pandas(X)
    reader = _Reader(modality, tuple(modalities), may_be_absent=not usable)
    columns: Sequence[str] = ()
    if isinstance(X, pd.DataFrame):
        columns = reader.columns(X)
        rows = reader.frame_rows(X, columns)
    elif isinstance(X, pd.Series):
        rows = reader.series_rows(X)
    else:
        rows = reader.list_rows(list_samples(X))
    if not rows:
        raise InputError(f"X: expected at least one subject as {FORMS}, got none.")
    reader.finish()
    for row in rows if usable else ():
        check_subject(row, modalities=modalities, allow_missing=allow_missing)
    named = {*columns, *(name for row in rows for name in row.images)}
    return SubjectTable(tuple(rows), tuple(m for m in modalities if m in named))


def read_subjects(
    X: Any, checkpoint: Checkpoint, modality: str | None, *, usable: bool = True
) -> SubjectTable:
    """Read X as subjects with the modalities that a checkpoint allows."""
    config = checkpoint.config
    return as_subjects(
        X,
        modality=modality,
        modalities=config.encoder.modalities,
        allow_missing=config.missing_modalities,
        usable=usable,
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
            f"{', '.join(modalities)}, got none."
        )
    if missing and not allow_missing:
        raise ModalityError(
            f"{subject.participant_id}: no {', '.join(missing)} image, and the "
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


@dataclass(frozen=True)
class _Reader:
    """The forms of X that hold several images."""

    modality: str | None
    modalities: tuple[str, ...]
    notes: ContrastNotes = field(default_factory=ContrastNotes)
    may_be_absent: bool = False  # whether files need not exist

    def columns(self, X: pd.DataFrame) -> list[str]:
        # A single column may have any name, as a bare list has none.
        if self.modality is not None and len(X.columns) == 1:
            unnamed = X.columns[0] not in self.modalities
            return [self.modality if unnamed else str(X.columns[0])]
        columns = [name for name in X.columns if not self._is_metadata(X, name)]
        for column in columns or X.columns:
            _check_known(column, self.modalities, "X: column")
        if len({*columns}) < len(columns):
            raise InputError(
                f"X: expected one column per modality, got {list(X.columns)}."
            )
        return [str(column) for column in columns]

    def _is_metadata(self, X: pd.DataFrame, column: Any) -> bool:
        """Whether a column is of names, ages and such, or of label maps."""
        if column in self.modalities:
            return False
        name = read_image_name(str(column))
        if name.is_label_map or name.contrast is not None:
            return name.is_label_map
        values = X.loc[:, column].to_numpy(dtype=object).ravel()
        return not any(map(_is_image, values))

    def frame_rows(self, X: pd.DataFrame, columns: Sequence[str]) -> list[Subject]:
        rows = []
        # A single column may have another name.
        images = X if len(X.columns) == 1 else X[[*columns]]
        tuples = images.itertuples(index=False, name=None)
        for label, values in zip(_labels(X), tuples, strict=True):
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
            image = self._image(value, where)
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
            for image in self._images(sample, where):
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
            images[str(modality)] = self._image(value, f"{where}, {modality}")
        paths = [str(image) for image in images.values() if isinstance(image, Path)]
        return Subject(name or next(iter(paths), where), images)

    def _image(self, value: Any, where: str) -> ImageSource | None:
        try:
            return read_image_source(value, where)
        except VolumeNotFoundError as error:
            return self._absent(value, error)

    def _images(self, value: Any, where: str) -> Sequence[ImageSource | None]:
        try:
            return read_image_sources(value, where)
        except VolumeNotFoundError as error:
            return [self._absent(value, error)]

    def _absent(self, value: Any, error: VolumeNotFoundError) -> Path:
        """Return the path of a file that may be absent."""
        if not self.may_be_absent or glob.has_magic(os.fspath(value)):
            raise error
        return expand_home(value)

    def _modality_of(self, image: ImageSource | None) -> str:
        path = _path_of(image)
        if path is None:
            if image is not None:
                self.notes.unnamed.append("image in memory")
            return self.modalities[0]
        name = read_image_name(path)
        if name.is_label_map:
            raise InputError(
                f"{path}: expected a scan, got a label map (by its name); modality= "
                "overrules the name."
            )
        modality = name.find_modality(self.modalities)
        if modality is not None:
            return modality
        if name.contrast == CONTRAST_AGENT and "T1w" in self.modalities:
            self.notes.agent_used.append(str(path))
            return "T1w"
        if name.contrast is not None:
            raise unknown_contrast(str(path), name, self.modalities, "modality=")
        self.notes.unnamed.append(str(path))
        return self.modalities[0]

    def finish(self) -> None:
        """Log what was guessed; a contrast that is a number cannot be."""
        channels = find_channels(self.notes.unnamed)
        if channels:
            raise unknown_channel(min(channels), "modality=")
        self.notes.log(self.modalities[0], "modality=")


def _labels(X: pd.DataFrame) -> "pd.Index[Any] | pd.Series[Any]":
    is_numbered = isinstance(X.index, pd.RangeIndex)  # as from polars
    return X["participant_id"] if is_numbered and "participant_id" in X else X.index


def _is_image(value: Any) -> bool:
    if isinstance(value, str | os.PathLike):
        return has_image_suffix(os.fspath(value))
    return isinstance(value, SpatialImage | Volume)


def _path_of(image: ImageSource | None) -> str | None:
    if isinstance(image, SpatialImage):
        return image.get_filename()
    return None if image is None else os.fspath(image)


def _check_known(name: Any, modalities: Sequence[str], where: str) -> None:
    if name not in modalities:
        raise ModalityError(
            f"{where}: unknown modality {name!r}, expected one of "
            f"{', '.join(modalities)}."
        )
