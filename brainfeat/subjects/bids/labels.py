"""``participants.tsv`` and ``sessions.tsv`` of a BIDS folder."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from brainfeat.io.delimited_rows import DelimitedError, read_rows, read_value
from brainfeat.io.file_kinds import describe_link

__all__ = ["join_participants", "read_participants", "read_sessions"]

_LOGGER = logging.getLogger(__name__)
_N_NAMED = 10


def join_participants(
    folder: Path, names: Sequence[str]
) -> dict[str, dict[str, str | None]]:
    """Return the columns of ``participants.tsv`` by the names of the folders ``sub-*``.

    Names are compared without leading zeros where that leaves one of each kind.
    Participants without a line are logged, as a warning if none has one.
    """
    lines = read_participants(folder)
    lines_by_label, names_by_label = _by_label(lines), _by_label(names)
    joined = {}
    for name in names:
        label = _label_of(name)
        if name in lines:
            joined[name] = lines[name]
        elif len(lines_by_label[label]) == len(names_by_label[label]) == 1:
            joined[name] = lines[lines_by_label[label][0]]
    absent = [name for name in names if name not in joined]
    if lines and absent:
        # Some lack a line in many datasets.
        _LOGGER.log(
            logging.INFO if joined else logging.WARNING,
            "%s: %d of %d participants matched, none for %s.",
            *(folder / "participants.tsv", len(joined), len(names)),
            ", ".join(absent[:_N_NAMED]) + (", ..." if absent[_N_NAMED:] else ""),
        )
    return joined


def _by_label(names: Iterable[str]) -> defaultdict[str, list[str]]:
    groups = defaultdict(list)
    for name in names:
        groups[_label_of(name)].append(name)
    return groups


def _label_of(name: str) -> str:
    return name.removeprefix("sub-").lstrip("0")


def read_participants(folder: Path) -> dict[str, dict[str, str | None]]:
    """Read ``participants.tsv``: columns by ``participant_id``, with its ``sub-``.

    ``n/a``, and what pandas or R write for it, is None. Empty if there is no file.
    """
    return _read_labels(folder / "participants.tsv", "participant_id", "sub-")


def read_sessions(subject: Path) -> dict[str, dict[str, str | None]]:
    """Read ``sub-01_sessions.tsv`` of a subject's folder: columns by ``session_id``."""
    path = subject / f"{subject.name}_sessions.tsv"
    return _read_labels(path, "session_id", "ses-")


def _read_labels(path: Path, column: str, prefix: str) -> dict[str, Any]:
    """Read a table of metadata; errors are warnings, as images need no metadata."""
    if not path.is_file():
        if path.is_symlink():
            reason = describe_link(path)
            _LOGGER.warning("%s: %s; its columns are left out.", path, reason)
        return {}
    lines: dict[str, Any] = {}
    repeated = []
    rows = _whole_rows(path)
    try:
        names = [name.strip() for name in next(rows, [])]
        if column not in names:
            _LOGGER.warning(
                "%s: expected a column %s, got %s; its columns are left out.",
                *(path, column, ", ".join(filter(None, names)) or "none"),
            )
            return {}
        for cells in rows:
            values = dict(zip_longest(names, map(read_value, cells[: len(names)])))
            label = values.pop(column, None) or ""
            values.pop("", None)  # of a tab at the end
            name = prefix + label.removeprefix(prefix)
            if name in lines:
                repeated.append(name)
            lines[name] = values
        _report_replaced(path, lines)
    except DelimitedError as error:  # also of a quote that swallows a large table
        last = next(reversed(lines), "the names of its columns")
        text = "%s: damaged after %s (%s); the lines from there are left out."
        _LOGGER.warning(text, path, last, error)
    if repeated:
        text = "%s: %d lines repeat a %s (%s); the last line of each is used."
        _LOGGER.warning(text, path, len(repeated), column, repeated[0])
    return lines


def _report_replaced(path: Path, lines: dict[str, dict[str, str | None]]) -> None:
    values = (value or "" for line in lines.values() for value in line.values())
    n_replaced = sum("\ufffd" in value for value in values)
    if n_replaced:
        _LOGGER.warning(
            "%s: not UTF-8, so that characters of %d values were replaced; save it as "
            "UTF-8.",
            *(path, n_replaced),
        )


def _whole_rows(path: Path) -> Iterator[list[str]]:
    for _, cells in read_rows(path, "\t", errors="replace"):
        if any("\n" in cell for cell in cells):
            raise DelimitedError("a quote that is not closed")
        if cells:
            yield cells
