"""One subject, and the outcome of work on it: the types from path to row."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, Literal, Self, TypeVar

from nibabel.spatialimages import SpatialImage

from brainfeat.io.image_files import ImageSource

__all__ = [
    "ADDED_COLUMNS",
    "QUALITY_COLUMNS",
    "Outcome",
    "Subject",
    "is_reserved",
    "join_modalities",
    "own_columns",
]

# Similarity, volume and doubt of `Quality`.
QUALITY_COLUMNS = ("qc_similarity", "qc_brain_ml", "qc_doubt")
# Columns that tables of earlier versions lack.
ADDED_COLUMNS = ("modalities", "qc_voxel_mm", *QUALITY_COLUMNS)

T = TypeVar("T")


@dataclass(frozen=True)
class Subject:
    """One subject, or one session or run of it.

    ``images`` has one per modality; None, or no entry, if it was not acquired.
    ``metadata`` are further columns of the manifest; reserved names are dropped. Errors
    name ``source``, such as a manifest, in place of the first image.
    """

    participant_id: str  # the path or the index label for unnamed images
    images: Mapping[str, ImageSource | None]
    session_id: str | None = None
    metadata: Mapping[str, str | None] = field(default_factory=dict)
    source: str | None = None

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
        """Path of the first image."""
        return next(iter(self.paths.values()))

    @property
    def source_name(self) -> str:
        """The file, or else the subject, that error messages begin with."""
        first_path = next(iter(self.paths.values()), None)
        return self.source or first_path or self.participant_id

    @property
    def key(self) -> str:
        """Identity of the row in a table: its image files, as JSON."""
        return json.dumps(sorted(self.paths.items()))

    def for_workers(self) -> Self:
        """Return a copy with absolute paths, for workers in other folders."""
        images = {
            modality: source.absolute() if isinstance(source, Path) else source
            for modality, source in self.images.items()
        }
        return replace(self, images=images)


@dataclass(frozen=True, eq=False)
class Outcome(Generic[T]):
    """A subject with the result of work on it, or the error; neither if skipped."""

    subject: Subject
    result: T | None = None
    error: Exception | None = None

    @property
    def status(self) -> Literal["done", "skipped", "failed"]:
        """Whether there is a result, an error, or neither: was done before."""
        if self.error is not None:
            return "failed"
        return "skipped" if self.result is None else "done"

    def unwrap(self) -> T:
        """Return the result, or raise the error."""
        if self.result is None:
            raise self.error or RuntimeError(f"{self.subject.source_name}: no result.")
        return self.result


def own_columns(modalities: Sequence[str]) -> list[str]:
    """Return the columns that every table has before the embedding, in order."""
    identity = ("participant_id", "session_id", "image", *modalities)
    return [*identity, *ADDED_COLUMNS, "input_sha256"]


def join_modalities(images: Mapping[str, object], modalities: Sequence[str]) -> str:
    """Name the modalities that have an image, in order.

    >>> join_modalities({"FLAIR": "b.nii", "T1w": "a.nii"}, ["T1w", "T2w", "FLAIR"])
    'T1w+FLAIR'
    """
    return "+".join(name for name in modalities if images.get(name))


def is_reserved(column: str, modalities: Sequence[str]) -> bool:
    """Whether a table has a column of this name that metadata must not replace."""
    return column in own_columns(modalities) or column.startswith("emb_")
