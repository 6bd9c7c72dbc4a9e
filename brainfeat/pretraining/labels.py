"""Labels of a user's own subjects, to probe an encoder with while it is trained."""

__all__ = ["make_probe", "read_labels"]

import csv
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from brainfeat.exceptions import InputError, brief_reason
from brainfeat.io.paths import expand_home
from brainfeat.pretraining.probe import LinearProbe
from brainfeat.pretraining.store import VolumeStore

logger = logging.getLogger(__name__)

_MISSING = {"", "n/a", "na", "nan"}
_NAMES = ("participant_id", "subject")
_LARGEST_CLASS = 100  # subjects of each class: their volumes are held in memory
_N_TRAIN = 20  # of each class, at most


def read_labels(
    path: str | os.PathLike[str], column: str | None = None
) -> dict[str, bool]:
    """Read a table with two classes.

    Parameters
    ----------
    path : path-like
        TSV, or CSV by its name, with a column ``participant_id`` or ``subject``.
    column : str, optional
        Column of the classes; None takes the only other one.

    Returns
    -------
    dict of str to bool
        Whether a subject, without its ``sub-``, is of the class that comes last
        in the alphabet. Rows without a subject or a class are left out.

    Raises
    ------
    InputError
        If the file cannot be read, a column is missing, a subject is of both
        classes, or there are not two.
    """
    try:
        with expand_home(path).open(newline="", encoding="utf-8-sig") as file:
            delimiter = "," if Path(path).suffix.lower() == ".csv" else "\t"
            reader = csv.DictReader(file, delimiter=delimiter)
            columns, lines = list(reader.fieldnames or []), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{os.fspath(path)}: cannot be read ({brief_reason(error)})."
        ) from error
    name = next((name for name in _NAMES if name in columns), None)
    others = [other for other in columns if other != name]
    chosen = column or (others[0] if len(others) == 1 else None)
    if name is None or chosen not in others:
        raise InputError(
            f"{os.fspath(path)}: expected a column participant_id and "
            f"{column or 'one of classes'}, got {', '.join(columns) or 'none'}."
        )
    classes: dict[str, str] = {}
    for line in lines:
        subject, value = ((line[key] or "").strip() for key in (name, chosen))
        if not subject or value.lower() in _MISSING:
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
    labels: Mapping[str, bool], store: VolumeStore, *, plane: str
) -> LinearProbe:
    """Build a probe of the subjects of a store that have labels.

    Parameters
    ----------
    labels : mapping of str to bool
        What `read_labels` gives.
    store : VolumeStore
        Where their volumes are; at most 100 of each class are taken.
    plane : {"axial", "coronal", "sagittal"}
        Plane of the slabs.

    Returns
    -------
    LinearProbe
        Learns from half of the smaller class, 20 at most, and as many others.

    Raises
    ------
    InputError
        If a class has fewer than two subjects.
    """
    members: dict[bool, list[str]] = {False: [], True: []}
    for subject in store.subjects:
        label = labels.get(subject.removeprefix("sub-"))
        if label is not None and len(members[label]) < _LARGEST_CLASS:
            members[label].append(subject)
    smallest = min(map(len, members.values()))
    if smallest < 2:
        raise InputError(
            "labels: expected two scanned subjects of each class, got "
            f"{len(members[False])} and {len(members[True])}."
        )
    n_train = min(_N_TRAIN, smallest // 2)
    logger.info(
        "The probe knows %d and %d subjects of the two classes, and learns from %d of "
        "each.",
        len(members[False]),
        len(members[True]),
        n_train,
    )
    names = members[False] + members[True]
    return LinearProbe(
        store.load(names),
        torch.tensor([name in members[True] for name in names]),
        n_train=2 * n_train,
        plane=plane,
    )
