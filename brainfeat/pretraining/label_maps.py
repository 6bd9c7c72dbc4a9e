"""Label maps beside scans, and the structures that their tables name."""

__all__ = [
    "LABEL_MAP",
    "LABEL_TABLE",
    "LabelCodes",
    "collect_structures",
    "find_label_maps",
    "read_codes",
]

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from brainfeat.exceptions import InputError, brief_reason
from brainfeat.io.delimited_rows import DelimitedError, read_records
from brainfeat.io.paths import expand_home, has_image_suffix, image_stem
from brainfeat.pretraining.structures import Structures
from brainfeat.subjects.image_names import read_image_name
from brainfeat.subjects.owners import find_owner
from brainfeat.subjects.subject import Subject

logger = logging.getLogger(__name__)

# Columns of a manifest, and names in the metadata of a subject.
LABEL_MAP, LABEL_TABLE = "label_map", "label_table"
_MOST_LABELS = 255  # that uint8 holds beside 0
Codes = dict[int, frozenset[str]]


class LabelCodes(NamedTuple):
    """How the values of one kind of label map become the labels of a store."""

    labels: dict[int, int]  # value in the map: label from 1
    known: tuple[bool, ...]  # structures of the store that this kind tells

    def apply(self, values: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Translate values; those without a name are 0."""
        found, inverse = np.unique(values, return_inverse=True)
        table = np.array([self.labels.get(int(v), 0) for v in found], np.uint8)
        return table[inverse].reshape(values.shape)


def find_label_maps(
    subjects: Sequence[Subject],
    *,
    folder: Path | None = None,
    table: Path | None = None,
    manifests: Sequence[Path] = (),
) -> tuple[Subject, ...]:
    """Add the path of its label map, and of its table, to each subject that has one.

    Label maps are named in a column ``label_map`` of a manifest, or found in a folder
    by the names of their subjects. The table of names is that of a column
    ``label_table``, the given one, or one beside the label map.
    """
    in_folder = {} if folder is None else _index_folder(folder)
    found = []
    for subject in subjects:
        label_map = _listed(subject, LABEL_MAP, manifests)
        if label_map is None:
            label_map = _match(subject, in_folder)
        if label_map is None:
            found.append(subject)
            continue
        own = _listed(subject, LABEL_TABLE, manifests) or table or _beside(label_map)
        if own is None:
            raise InputError(
                f"{label_map}: expected a table of its labels, with columns index and "
                f"name, as {image_stem(label_map)}.tsv or dseg.tsv beside it, in a "
                f"column {LABEL_TABLE} of the manifest, or by --label-table."
            )
        paths = {LABEL_MAP: str(label_map), LABEL_TABLE: str(own)}
        found.append(replace(subject, metadata={**subject.metadata, **paths}))
    n_found = sum(bool(row.metadata.get(LABEL_MAP)) for row in found)
    if folder is not None and not n_found:
        example = subjects[0].participant_id if subjects else "a subject"
        raise InputError(
            f"{folder}: expected label maps named as their subjects, such as "
            f"{example}, got none that fits."
        )
    if n_found:
        logger.info("%d of %d scans have a label map.", n_found, len(found))
    return tuple(found)


def collect_structures(
    subjects: Iterable[Subject],
) -> tuple[Structures, dict[str, LabelCodes]]:
    """Join the structures of all tables; return them, and the codes by table.

    A value may be part of several structures. Labels of all tables that are part of the
    same structures are one label of the store.
    """
    tables = dict.fromkeys(
        path for subject in subjects if (path := subject.metadata.get(LABEL_TABLE))
    )
    codes = {path: read_codes(Path(path)) for path in tables}
    parts = dict.fromkeys(
        part for table in codes.values() for _, part in sorted(table.items())
    )
    if len(parts) > _MOST_LABELS:
        raise InputError(
            f"{next(iter(tables))}: expected at most {_MOST_LABELS} different "
            f"structures, got {len(parts)}; give several labels one name."
        )
    labels = {part: number for number, part in enumerate(parts, 1)}
    names = _names_in_order(tables)
    members = tuple(tuple(name in part for part in parts) for name in names)
    result = {
        path: LabelCodes(
            {value: labels[part] for value, part in table.items()},
            tuple(any(name in part for part in table.values()) for name in names),
        )
        for path, table in codes.items()
    }
    return Structures(names=names, members=members), result


def read_codes(path: Path) -> Codes:
    """Read the structures of each value; 0 and the name ``background`` are none."""
    codes: dict[int, set[str]] = defaultdict(set)
    for value, name in _read_rows(path):
        codes[value].add(name)
    return {value: frozenset(names) for value, names in codes.items()}


def _read_rows(path: Path) -> list[tuple[int, str]]:
    try:
        # "None" is a name here.
        columns, lines = read_records(expand_home(path), convert=str.strip)
    except (OSError, DelimitedError) as error:
        raise InputError(
            f"{path}: not a readable table of labels ({brief_reason(error)})."
        ) from error
    rows = [
        (int(index), name)
        for line in lines.values()
        if (name := line.get("name"))
        and re.fullmatch(r"\d+", index := line.get("index") or "")
        and int(index) != 0
        and name.casefold() != "background"
    ]
    if not rows:
        raise InputError(
            f"{path}: expected columns index and name, and rows of labels, got columns "
            f"{', '.join(columns) or 'none'}."
        )
    return rows


def _names_in_order(tables: Iterable[str]) -> tuple[str, ...]:
    rows = (row for path in tables for row in _read_rows(Path(path)))
    return tuple(dict.fromkeys(name for _, name in rows))


def _index_folder(folder: Path) -> dict[str, Path]:
    """Index label maps by the names by which their subjects may be known.

    A name that several begin with is none.
    """
    folder = expand_home(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of label maps, got none.")
    found: dict[str, set[Path]] = defaultdict(set)
    for path in sorted(folder.rglob("*")):
        if has_image_suffix(path.name) and path.is_file():
            for name in _names_of_label_map(path):
                found[name].add(path.absolute())
    return {name: paths.pop() for name, paths in found.items() if len(paths) == 1}


def _names_of_label_map(path: Path) -> list[str]:
    """Return the beginnings of a name, such as ``s1`` of ``s1_T1w_seg``."""
    if visit := _bids_visit(path):
        return [visit]
    rest = read_image_name(path).rest
    ends = [match.start() for match in re.finditer(r"[_\-.]", rest)]
    return [image_stem(path), rest, *(rest[:end] for end in ends)]


def _bids_visit(path: Path) -> str:
    owner = find_owner(str(path))
    session = f"_ses-{owner['ses']}" if "ses" in owner else ""
    return f"sub-{owner['sub']}{session}" if "sub" in owner else ""


def _match(subject: Subject, found: Mapping[str, Path]) -> Path | None:
    images = [Path(image) for image in subject.paths.values()]
    names = [_bids_visit(image) for image in images]
    names += [read_image_name(image).rest for image in images]
    names += [image_stem(image) for image in images]
    if subject.session_id is None:
        names += [subject.participant_id, f"sub-{subject.participant_id}"]
    own = {image.absolute() for image in images}
    matches = (found[name] for name in names if name in found)
    return next((path for path in matches if path not in own), None)


def _listed(subject: Subject, column: str, manifests: Sequence[Path]) -> Path | None:
    """Return the path in a column of the manifest, which may be relative to it."""
    text = subject.metadata.get(column)
    if not text:
        return None
    path = expand_home(text)
    places = [path, *(manifest.parent / path for manifest in manifests)]
    existing = next((place for place in places if place.is_file()), None)
    if existing is None:
        raise InputError(
            f"{path}: no such file ({column} of {subject.participant_id})."
        )
    return existing.absolute()


def _beside(label_map: Path) -> Path | None:
    """Find the table of a label map: in its folder or, as in BIDS, above."""
    own = label_map.parent / f"{image_stem(label_map)}.tsv"
    above = [parent / "dseg.tsv" for parent in label_map.resolve().parents[:4]]
    return next((path for path in (own, *above) if path.is_file()), None)
