"""Selection of participants, sessions and images in a BIDS folder."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from brainfeat.exceptions import InputError
from brainfeat.io.json_files import read_json
from brainfeat.subjects.bids.entities import BidsName

__all__ = ["BidsSelection", "parse_filters", "read_filters"]

# Names of entities in filter files, as in pybids.
_ENTITIES = {
    "subject": "sub",
    "session": "ses",
    "acquisition": "acq",
    "ceagent": "ce",
    "tracer": "trc",
    "reconstruction": "rec",
    "inversion": "inv",
    "resolution": "res",
    "description": "desc",
}
_SHORT = {*_ENTITIES.values(), "run", "echo", "part", "chunk", "space", "mt", "flip"}
# Every image that is looked for has these.
_IGNORED = {"datatype", "suffix", "extension"}

# Any value; no label of BIDS has an asterisk.
_ANY = "*"
# What `str` and `repr` make of the queries of pybids.
_QUERY = re.compile(r"<?Query\.(ANY|REQUIRED|NONE|OPTIONAL)(?:: \d+)?>?")

# Values that each entity may have, by modality; None if the name lacks the entity.
_Filters = Mapping[str, Mapping[str, tuple[str | None, ...]]]


@dataclass(frozen=True, kw_only=True)
class BidsSelection:
    """Labels of participants and sessions, with or without prefix; empty means all.

    ``filters`` comes from `read_filters`; ``within`` are folders of participants,
    sessions or images, and images, empty for the whole dataset.
    """

    participants: Sequence[str] = ()
    sessions: Sequence[str] = ()
    filters: _Filters = field(default_factory=dict)
    within: frozenset[Path] = frozenset()

    def take_participants(self, folder: Path, subjects: Sequence[Path]) -> list[Path]:
        """Select the folders ``sub-*``; a selected label without one is an error."""
        selected = {f"sub-{label.removeprefix('sub-')}" for label in self.participants}
        absent = sorted(selected - {path.name for path in subjects})
        if absent:
            raise InputError(f"{folder}: there is no {', '.join(absent)}.")
        return [
            path
            for path in subjects
            if (not selected or path.name in selected) and self.has_folder(path)
        ]

    def has_folder(self, folder: Path) -> bool:
        """Whether a folder, or something above or in it, is selected."""
        return self.has_path(folder) or folder in self._above

    def has_path(self, path: Path) -> bool:
        """Whether an image, or a folder that it lies in, is selected."""
        return not self.within or not self.within.isdisjoint([path, *path.parents])

    @cached_property
    def _above(self) -> frozenset[Path]:
        return frozenset(folder for path in self.within for folder in path.parents)

    def has_session(self, session_id: str | None) -> bool:
        """Whether a session is selected; None is what lies in no session."""
        selected = {f"ses-{label.removeprefix('ses-')}" for label in self.sessions}
        return not selected or session_id in selected

    def has_image(self, name: BidsName) -> bool:
        """Whether the filter of its modality selects an image."""
        return all(
            _fits(name.entities.get(entity), values)
            for entity, values in self.filters.get(name.suffix, {}).items()
        )


def _fits(value: str | None, values: Sequence[str | None]) -> bool:
    if value is not None and _ANY in values:
        return True
    return _plain(value) in map(_plain, values)


def _plain(value: str | None) -> str | None:
    # Indices may have leading zeros: run-01 is run 1.
    return str(int(value)) if value is not None and value.isdecimal() else value


def read_filters(path: Path | None, modalities: Sequence[str]) -> _Filters:
    """Read a filter file of BIDS apps, as far as it is about the modalities.

    It is JSON such as ``{"t1w": {"acquisition": "mprage", "run": [1, 2]}}``; null
    selects names without the entity, and ``"*"`` those with it, whatever its value.
    No path is no filter.
    """
    if path is None:
        return {}
    if not path.exists():
        raise InputError(f"{path}: no such file.")
    content = read_json(path, "a filter per modality")
    return parse_filters(content, modalities, source=str(path))


def parse_filters(
    content: Mapping[str, Any], modalities: Sequence[str], *, source: str
) -> _Filters:
    """Check the content of a filter file; errors begin with ``source``."""
    known = {modality.casefold(): modality for modality in modalities}
    return {
        known[name.casefold()]: _read_filter(source, name, values)
        for name, values in content.items()
        if name.casefold() in known
    }


def _read_filter(
    source: str, name: str, values: Any
) -> dict[str, tuple[str | None, ...]]:
    if not isinstance(values, dict):
        raise InputError(f"{source}: {name}: expected entities and their values.")
    chosen = {}
    for entity, value in values.items():
        if entity in _IGNORED:
            continue
        short = _ENTITIES.get(entity, entity)
        if short not in _SHORT:
            raise InputError(f"{source}: {name}: unknown entity {entity!r}.")
        chosen[short] = _read_values(value, f"{source}: {name}: {entity}")
    return chosen


def _read_values(value: Any, where: str) -> tuple[str | None, ...]:
    values: list[str | None] = []
    for one in value if isinstance(value, list) else [value]:
        if one is not None and (
            isinstance(one, bool) or not isinstance(one, str | int)
        ):
            raise InputError(
                f'{where}: expected labels, "*" for any or null for none, got {one!r}.'
            )
        query = _QUERY.fullmatch(str(one))
        if query is None:
            values.append(None if one is None else str(one))
        else:
            values += [None] if query[1] in {"NONE", "OPTIONAL"} else []
            values += [_ANY] if query[1] != "NONE" else []
    return tuple(values)
