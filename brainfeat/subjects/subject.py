"""One subject and what became of it: the types of the whole way from path to row."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, Literal, Self, TypeVar

from nibabel.spatialimages import SpatialImage

from brainfeat.io.image_files import ImageSource

__all__ = ["Outcome", "Subject", "is_reserved", "own_columns"]

T = TypeVar("T")


@dataclass(frozen=True)
class Subject:
    """One subject, or one session of it: identity, images and own columns.

    Parameters
    ----------
    participant_id : str
        Name of the subject, as in ``participants.tsv``; for images that come without
        names, the path or the index label.
    images : mapping of str to path-like, nibabel image or None
        One image a modality; None, or no entry, if it was not acquired.
    session_id : str or None
        Name of the session, if there are several.
    metadata : mapping of str to str or None
        Columns of the manifest that are kept beside the embedding; those that
        are reserved are not.
    """

    participant_id: str
    images: Mapping[str, ImageSource | None]
    session_id: str | None = None
    metadata: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def paths(self) -> dict[str, str]:
        """Path of each image that is a file, or was loaded from one, by modality."""
        sources = {
            modality: image.get_filename() if isinstance(image, SpatialImage) else image
            for modality, image in self.images.items()
        }
        return {m: os.fspath(source) for m, source in sources.items() if source}

    @property
    def image(self) -> str:
        """Path of the main image: the first modality's."""
        return next(iter(self.paths.values()))

    @property
    def source_name(self) -> str:
        """What errors begin with: the first file, or else the name."""
        return next(iter(self.paths.values()), self.participant_id)

    @property
    def key(self) -> str:
        """Identity in a table: the image files."""
        return json.dumps(sorted(self.paths.items()))

    def for_workers(self) -> Self:
        """Return a copy with absolute paths, which hold in other folders too."""
        images = {
            modality: source.absolute() if isinstance(source, Path) else source
            for modality, source in self.images.items()
        }
        return replace(self, images=images)


@dataclass(frozen=True, eq=False)
class Outcome(Generic[T]):
    """A subject with its result, or with the error that took its place.

    Parameters
    ----------
    subject : Subject
        As it came.
    result : object or None
        What was computed; None if the subject was done before, or failed.
    error : Exception or None
        Why there is no result.
    """

    subject: Subject
    result: T | None = None
    error: Exception | None = None

    @property
    def status(self) -> Literal["done", "skipped", "failed"]:
        """What became of the subject; skipped ones were done before."""
        if self.error is not None:
            return "failed"
        return "skipped" if self.result is None else "done"

    def unwrap(self) -> T:
        """Return the result, or raise the error."""
        if self.result is None:
            raise self.error or RuntimeError(f"{self.subject.source_name}: no result.")
        return self.result


def own_columns(modalities: Sequence[str]) -> list[str]:
    """Name the columns before the embedding that every table has, in their order."""
    return ["participant_id", "session_id", "image", *modalities, "input_sha256"]


def is_reserved(column: str, modalities: Sequence[str]) -> bool:
    """Whether a table has a column of its own of that name, whatever metadata say."""
    return column in own_columns(modalities) or column.startswith("emb_")
