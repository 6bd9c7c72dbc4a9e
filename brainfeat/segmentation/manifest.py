"""Manifests of labelled scans: a column of label maps, or one of each structure."""

__all__ = ["LabelledManifest", "read_labelled_manifest"]

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from brainfeat.exceptions import InputError
from brainfeat.io.image_files import ImageSource
from brainfeat.io.paths import expand_home, has_image_suffix
from brainfeat.io.volumes import read_labels, to_image
from brainfeat.subjects.failures import describe_failure
from brainfeat.subjects.manifest import collect_rows
from brainfeat.subjects.subject import Subject
from brainfeat.volume import Volume

_LABEL = "label"


class LabelledManifest(NamedTuple):
    """Subjects, their label maps, and the names of labels by columns."""

    rows: tuple[Subject, ...]
    label_maps: list[ImageSource]
    names: dict[int, str]


def read_labelled_manifest(
    path: Path, modalities: Sequence[str], wanted: Sequence[str] = ()
) -> LabelledManifest:
    """Read subjects and label maps from a table with a column ``label``.

    Without it, further columns of images are masks of one structure each, which is
    named by its column. All rows must be usable. ``modalities`` are those that the
    checkpoint knows, ``wanted`` those to use; none means all.
    """
    if path.suffix not in {".csv", ".tsv"}:
        raise InputError(f"{path}: expected a manifest that ends in .csv or .tsv.")
    manifest = collect_rows([str(path)], modalities=modalities, wanted=wanted)
    for problem in manifest.problems:
        raise InputError(describe_failure(problem))
    for image in manifest.duplicates:
        raise InputError(f"{path}: expected each image once, got {image} again.")
    rows = manifest.rows
    columns = dict.fromkeys(name for row in rows for name in row.metadata)
    if not rows or _LABEL in columns:
        listed: list[ImageSource] = [_listed_file(row, _LABEL, path) for row in rows]
        return LabelledManifest(rows, listed, {})
    masks = [name for name in columns if _is_of_images(rows, name, path)]
    if not masks:
        raise InputError(
            f"{path}: expected a column named {_LABEL}, got "
            f"{', '.join(columns) or 'none beside the images'}."
        )
    files = [[_listed_file(row, name, path) for name in masks] for row in rows]
    names = dict(enumerate(masks, start=1))
    return LabelledManifest(rows, [_join_masks(paths) for paths in files], names)


def _listed_file(row: Subject, column: str, manifest: Path) -> str:
    text = row.metadata.get(column)
    if not text:
        raise InputError(
            f"{manifest}: expected a path in column {column!r} for {row.image}, "
            "got none."
        )
    path = expand_home(text)
    in_its_folder = manifest.parent / path
    return str(in_its_folder if in_its_folder.exists() else path)


def _is_of_images(rows: Sequence[Subject], column: str, manifest: Path) -> bool:
    values = [row.metadata.get(column) for row in rows]
    return all(
        value
        and has_image_suffix(value)
        and Path(_listed_file(row, column, manifest)).is_file()
        for row, value in zip(rows, values, strict=True)
    )


def _join_masks(paths: Sequence[str]) -> ImageSource:
    """Join masks of one grid to a label map; later ones cover earlier ones."""
    joined: Volume | None = None
    for number, path in enumerate(paths, start=1):
        mask = read_labels(path)
        values = np.unique(mask.data[mask.data != 0])
        if len(values) > 1:
            raise InputError(
                f"{path}: expected a mask of one structure, got labels "
                f"{values[:5].tolist()}; the column of label maps is named {_LABEL!r}."
            )
        if joined is None:
            empty = np.zeros(mask.data.shape, np.uint8)
            joined = Volume(empty, mask.geometry)
        if not mask.geometry.is_close(joined.geometry):
            raise InputError(f"{path}: expected the grid of {paths[0]}, got another.")
        joined.data[mask.data != 0] = number
    if joined is None:
        raise InputError("expected at least one mask, got none.")
    return to_image(joined)
