"""A manifest of labelled scans: subjects, and the label map of each."""

__all__ = ["read_labelled_manifest"]

from collections.abc import Sequence
from pathlib import Path

from brainfeat.exceptions import InputError
from brainfeat.io.paths import expand_home
from brainfeat.subjects.failures import describe_failure
from brainfeat.subjects.manifest import collect_rows
from brainfeat.subjects.subject import Subject

_LABEL = "label"


def read_labelled_manifest(
    path: Path, modalities: Sequence[str], wanted: Sequence[str] = ()
) -> tuple[tuple[Subject, ...], list[str]]:
    """Read subjects and label maps from a table with a column ``label``.

    All rows must be usable. ``modalities`` are those that the checkpoint knows,
    ``wanted`` those to use; none means all.
    """
    if path.suffix not in {".csv", ".tsv"}:
        raise InputError(f"{path}: expected a manifest that ends in .csv or .tsv.")
    manifest = collect_rows([str(path)], modalities=modalities, wanted=wanted)
    for problem in manifest.problems:
        raise InputError(describe_failure(problem))
    for image in manifest.duplicates:
        raise InputError(f"{path}: expected each image once, got {image} again.")
    columns = dict.fromkeys(name for row in manifest.rows for name in row.metadata)
    if manifest.rows and _LABEL not in columns:
        raise InputError(
            f"{path}: expected a column named {_LABEL}, got "
            f"{', '.join(columns) or 'none beside the images'}."
        )
    return manifest.rows, [_label_map(row, path) for row in manifest.rows]


def _label_map(row: Subject, manifest: Path) -> str:
    text = row.metadata.get(_LABEL)
    if not text:
        raise InputError(
            f"{manifest}: expected a path in column {_LABEL!r} for {row.image}, "
            "got none."
        )
    path = expand_home(text)
    in_its_folder = manifest.parent / path
    return str(in_its_folder if in_its_folder.exists() else path)
