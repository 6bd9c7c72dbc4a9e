"""Labelled subjects of a manifest, and which estimator their labels need."""

__all__ = ["LabelledRows", "Task", "choose_task", "read_labelled_rows"]

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from brainfeat.evaluation.tasks import ClassTask, read_labels
from brainfeat.exceptions import InputError, brief_reason, list_names
from brainfeat.io.delimited_rows import DelimitedError, read_records
from brainfeat.io.paths import expand_home
from brainfeat.subjects.manifest import Manifest, collect_rows
from brainfeat.subjects.subject import Subject

Task = Literal["auto", "classes", "numbers"]

_NAMES = ("participant_id", "subject")


class LabelledRows(NamedTuple):
    """Subjects that have a label, and those that have none."""

    rows: tuple[Subject, ...]
    labels: list[str]
    unlabelled: tuple[Subject, ...]
    manifest: Manifest


def read_labelled_rows(
    inputs: Sequence[str],
    column: str,
    *,
    labels: Path | None = None,
    modalities: Sequence[str],
    wanted: Sequence[str] = (),
) -> LabelledRows:
    """Read subjects, and the label of each from a column of their manifest.

    Or from a table of ``labels`` with a column ``participant_id``. ``modalities`` are
    those that the checkpoint knows, ``wanted`` those to use; none means all.
    """
    manifest = collect_rows(inputs, modalities=modalities, wanted=wanted)
    known = None if labels is None else _read_table(labels, column)
    found = [_find_label(row, column, known) for row in manifest.rows]
    pairs = list(zip(manifest.rows, found, strict=True))
    if all(label is None for label in found):
        columns = sorted({name for row in manifest.rows for name in row.metadata})
        source = labels or ", ".join(inputs)
        raise InputError(
            f"{source}: expected a column {column!r} with a label of some subjects, "
            f"got {list_names(columns) or 'no such column'}."
        )
    return LabelledRows(
        tuple(row for row, label in pairs if label is not None),
        [label for label in found if label is not None],
        tuple(row for row, label in pairs if label is None),
        manifest,
    )


def choose_task(labels: Sequence[str], task: Task) -> tuple[Task, NDArray[Any]]:
    """Return whether labels are classes or numbers, and them as such.

    By default numbers are classes if there are few whole ones, as for probes.
    """
    numbers = _to_numbers(labels)
    if task == "numbers" and numbers is None:
        raise InputError(
            f"expected numbers, got {list_names([*dict.fromkeys(labels)])}."
        )
    if task == "auto":
        values = labels if numbers is None else numbers.tolist()
        _, found = read_labels(values, len(labels))
        task = "classes" if isinstance(found, ClassTask) else "numbers"
    if task == "numbers" and numbers is not None:
        return task, numbers
    return task, np.array(labels, dtype=object)


def _find_label(
    row: Subject, column: str, known: Mapping[str, str | None] | None
) -> str | None:
    if known is None:
        return row.metadata.get(column) or None
    return known.get(row.participant_id.removeprefix("sub-"))


def _read_table(path: Path, column: str) -> dict[str, str | None]:
    """Read the label of each participant, by name without ``sub-``."""
    try:
        columns, lines = read_records(expand_home(path))
    except (OSError, DelimitedError) as error:
        raise InputError(f"{path}: cannot be read ({brief_reason(error)}).") from error
    name = next((name for name in _NAMES if name in columns), None)
    if name is None or column not in columns:
        raise InputError(
            f"{path}: expected columns participant_id and {column}, got "
            f"{list_names(columns) or 'none'}."
        )
    known: dict[str, str | None] = {}
    for line in lines.values():
        subject, value = line[name], line[column]
        if subject is None:
            continue
        key = subject.removeprefix("sub-")
        if known.get(key, value) != value:
            raise InputError(
                f"{path}: expected one {column} for {subject}, got {known[key]} and "
                f"{value}."
            )
        known[key] = value
    return known


def _to_numbers(labels: Sequence[str]) -> NDArray[np.float64] | None:
    try:
        return np.array([float(label) for label in labels])
    except ValueError:
        return None
