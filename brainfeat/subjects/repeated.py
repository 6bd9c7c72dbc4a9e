"""Images that several rows have: repetitions of a row, and claims of two subjects."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from brainfeat.exceptions import InputError
from brainfeat.io.paths import image_stem
from brainfeat.subjects.image_names import read_image_name
from brainfeat.subjects.subject import Outcome, Subject

__all__ = ["UniqueRows", "find_repeated"]

_LOGGER = logging.getLogger(__name__)


class UniqueRows(NamedTuple):
    """Rows of which no two have the same images."""

    rows: tuple[Subject, ...]
    problems: tuple[Outcome[Any], ...]
    duplicates: tuple[str, ...]


def find_repeated(rows: Sequence[Subject]) -> UniqueRows:
    """Drop repetitions of a row; those of another participant or session fail.

    Participants that share some of their images only are kept, with a warning.
    """
    by_key: dict[str, Subject] = {}
    owners: dict[str, Subject] = {}
    problems: list[Outcome[Any]] = []
    duplicates: dict[str, None] = {}
    shared: dict[str, None] = {}
    for row in rows:
        same = by_key.setdefault(row.key, row)
        if same is not row and _are_different(same, row):
            problems.append(_failure(row, same))
        elif same is not row:
            duplicates[row.image] = None
        else:
            for path in row.paths.values():
                owner = owners.setdefault(path, row)
                if owner.participant_id != row.participant_id:
                    shared[path] = None
    if shared:
        _LOGGER.warning(
            "%d image(s) belong to several participants, such as %s",
            *(len(shared), next(iter(shared))),
        )
    return UniqueRows(tuple(by_key.values()), tuple(problems), tuple(duplicates))


def _are_different(first: Subject, second: Subject) -> bool:
    """Whether rows name different subjects; what comes from the file names none."""
    names = {first.participant_id, second.participant_id}
    of_file = {image_stem(first.image), read_image_name(first.image).rest}
    if len(names) > 1:
        return not names & of_file
    sessions = {first.session_id, second.session_id}
    return len(sessions) > 1 and None not in sessions


def _failure(row: Subject, owner: Subject) -> Outcome[Any]:
    path = row.image
    name = " ".join(filter(None, (owner.participant_id, owner.session_id)))
    error = InputError(
        f"{path}: expected an image of one participant and session, got the image of "
        f"{name}, too; correct the manifest."
    )
    return Outcome(replace(row, source=path), error=error)
