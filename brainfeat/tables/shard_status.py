"""How far the shards of a run are, from their files alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from brainfeat.io.locks import is_locked
from brainfeat.subjects.failures import count_failures, failures_path
from brainfeat.tables.embedding_table import working_path
from brainfeat.tables.formats import find_format
from brainfeat.tables.journal import count_rows, read_header
from brainfeat.tables.merging import Shard, absent_shards, without_failed

__all__ = ["ShardStatus", "read_status"]

_PREFIX, _SUFFIX = ".", ".partial"  # of `working_path`


class ShardStatus(NamedTuple):
    """The state of one part of a run.

    ``"running"``: a process writes it; ``"stopped"``: the same command resumes it;
    ``"missing"``: nothing was written.
    """

    path: Path | None  # of its table; None if no file was found
    shard: Shard | None  # which part of the run it is, if known
    n_done: int = 0  # rows embedded
    n_failed: int = 0  # subjects in the table of failures
    n_listed: int | None = None  # rows that it should have, if known
    state: Literal["done", "running", "stopped", "missing"] = "missing"

    def __str__(self) -> str:
        names = [str(self.path)] if self.path is not None else []
        names += [f"shard {self.shard}"] if self.shard is not None else []
        name = ", ".join(names)
        if self.state == "missing":
            return f"{name}: missing"
        of_listed = "" if self.n_listed is None else f" of {self.n_listed}"
        counts = f"{self.n_done}{of_listed} rows done, {self.n_failed} failed"
        return f"{name}: {counts}, {self.state}".removesuffix(", done")


def read_status(paths: Sequence[Path]) -> list[ShardStatus]:
    """Return the state of each table, of unfinished runs beside them, and of the rest.

    The rest are shards that have inputs, but no file in the folders of ``paths``.
    """
    found = list(map(_read, dict.fromkeys(paths)))
    lengths = {status.shard.count for status in found if status.shard is not None}
    for path in _find_unfinished(paths):
        status = _read(path)
        if status.shard is not None and status.shard.count in lengths:
            found.append(status)
    known = {status.shard for status in found}
    paths_found = [status.path for status in found if status.path is not None]
    n_inputs = max((_origin(p).get("n_listed", 0) for p in paths_found), default=0)
    absent = absent_shards(lengths, known, int(n_inputs) or None)
    n_failed = [s.n_failed for s in found if s.state == "done" and s.n_done == 0]
    found += [ShardStatus(None, shard) for shard in without_failed(absent, n_failed)]
    return sorted(
        found, key=lambda s: (s.shard.count, s.shard.index) if s.shard else ()
    )


def _find_unfinished(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the tables, beside the given ones, that runs have not finished."""
    given = {path.absolute() for path in paths}
    for folder in dict.fromkeys(path.parent for path in paths):
        for working in sorted(folder.glob(f"{_PREFIX}*{_SUFFIX}")):
            name = working.name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
            if (folder / name).absolute() not in given:
                yield folder / name


def _read(path: Path) -> ShardStatus:
    table_format, working = find_format(path), working_path(path)
    header = read_header(working)
    is_begun = header is not None
    origin = _origin(path)
    n_rows = 0
    if path.is_file() and not (header or {}).get("overwrites"):
        n_rows = len(table_format.read_texts(path)["image"])
    n_failed = count_failures(failures_path(path))
    if not (is_begun or path.is_file() or n_failed):
        return ShardStatus(path, None)
    shard = Shard.parse(str(origin["shard"])) if "shard" in origin else None
    n_listed = None
    if shard is not None and "n_listed" in origin:
        n_listed = len(shard.take(range(int(origin["n_listed"]))))
    n_done = n_rows + count_rows(working)
    if is_locked(working):
        state: Literal["running", "stopped", "done"] = "running"
    else:
        is_short = n_listed is not None and n_done + n_failed < n_listed
        state = "stopped" if is_begun or is_short else "done"
    return ShardStatus(path, shard, n_done, n_failed, n_listed, state)


def _origin(path: Path) -> dict[str, Any]:
    """Return what the run that has not ended, or else the table, says of its shard."""
    header = read_header(working_path(path))
    if header is not None and "shard" in header:
        return header
    return (find_format(path).read_provenance(path) if path.is_file() else None) or {}
