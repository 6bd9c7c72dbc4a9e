"""Labels of the user's subjects, for a probe during training."""

__all__ = ["make_probe", "read_labels"]

import logging
import os
from collections.abc import Mapping

from brainfeat.exceptions import InputError, brief_reason
from brainfeat.io.delimited_rows import DelimitedError, read_records
from brainfeat.io.paths import expand_home
from brainfeat.pretraining.probe import LinearProbe
from brainfeat.pretraining.store import VolumeStore
from brainfeat.slabs.grid import Plane

logger = logging.getLogger(__name__)

_SUBJECT_COLUMNS = ("participant_id", "subject")
_MAX_CLASS_SIZE = 100  # their volumes are kept in memory


def read_labels(
    path: str | os.PathLike[str], column: str | None = None
) -> dict[str, bool]:
    """Read two classes from a TSV, or a CSV by its name.

    `column` is by default the only one beside ``participant_id`` or ``subject``.
    Returns, by subject without its ``sub-``, whether it is of the class that comes
    last in the alphabet. Rows without a subject or a class are skipped.
    """
    try:
        columns, lines = read_records(expand_home(path))
    except (OSError, DelimitedError) as error:
        raise InputError(
            f"{os.fspath(path)}: cannot be read ({brief_reason(error)})."
        ) from error
    name = next((name for name in _SUBJECT_COLUMNS if name in columns), None)
    others = [other for other in columns if other != name]
    chosen = column or (others[0] if len(others) == 1 else None)
    if name is None or chosen not in others:
        raise InputError(
            f"{os.fspath(path)}: expected a column participant_id and "
            f"{column or 'one of classes'}, got {', '.join(columns) or 'none'}."
        )
    classes: dict[str, str] = {}
    for line in lines.values():
        subject, value = line[name], line[chosen]
        if subject is None or value is None:
            continue
        known = classes.setdefault(subject.removeprefix("sub-"), value)
        if value != known:
            raise InputError(
                f"{os.fspath(path)}: expected one class in {chosen} for {subject}, "
                f"got {known} and {value}."
            )
    values = sorted(set(classes.values()))
    if len(values) != 2:
        raise InputError(
            f"{os.fspath(path)}: expected two classes in {chosen}, got {len(values)}."
        )
    return {subject: value == values[1] for subject, value in classes.items()}


def make_probe(
    labels: Mapping[str, bool], store: VolumeStore, *, plane: Plane
) -> LinearProbe:
    """Build a probe of the labelled subjects of a store, at most 100 of each class."""
    members: dict[bool, list[str]] = {False: [], True: []}
    for subject in store.subjects:
        label = labels.get(subject.removeprefix("sub-"))
        if label is not None and len(members[label]) < _MAX_CLASS_SIZE:
            members[label].append(subject)
    sizes = [len(members[label]) for label in (False, True)]
    if min(sizes) < 2:
        raise InputError(
            "labels: expected two scanned subjects of each class, got "
            f"{sizes[0]} and {sizes[1]}."
        )
    logger.info("The probe has %d and %d subjects of the two classes.", *sizes)
    names = members[False] + members[True]
    flags = [False] * sizes[0] + [True] * sizes[1]
    return LinearProbe(store.load(names), flags, plane=plane)
