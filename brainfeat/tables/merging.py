"""Merging the tables of shards, the parts of a run that a job array computes."""

import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from brainfeat.exceptions import InputError, TableError
from brainfeat.io.atomic import naming_output
from brainfeat.io.locks import lock_folder, release_folder
from brainfeat.subjects.subject import own_columns
from brainfeat.tables.columns import complete_columns
from brainfeat.tables.embedding_table import check_columns, working_path
from brainfeat.tables.formats import find_format
from brainfeat.tables.previews import PreviewFolder
from brainfeat.tables.provenance import (
    check_identity,
    check_sidecar,
    join_precisions,
    read_origin,
    write_table,
)

__all__ = [
    "MergedTable",
    "Shard",
    "absent_shards",
    "format_absent",
    "merge_tables",
    "without_failed",
]

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """Part ``index``, from 1, of ``count`` consecutive parts of equal length."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``I/N``, or raise InputError.

        >>> Shard.parse("4/4").take("abcdefghij")
        'hij'
        """
        index, slash, count = text.partition("/")
        if slash and index.isdecimal() and count.isdecimal():
            shard = cls(int(index), int(count))
            if 1 <= shard.index <= shard.count:
                return shard
        raise InputError(
            f"--shard: expected I/N with I from 1 to N, such as 1/4, got {text!r}."
        )

    def take(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return the part of a sequence; empty if there are fewer items than parts."""
        ends = self.index - 1, self.index
        start, stop = (len(items) * n // self.count for n in ends)
        return items[start:stop]

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


class MergedTable(NamedTuple):
    """The number of rows of a merged table, and the shards that it lacks."""

    n_rows: int
    absent: tuple[Shard, ...]


def merge_tables(
    sources: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    allow_missing: bool = False,
    n_failed: Sequence[int] = (),
) -> MergedTable:
    """Merge tables of one encoder, in the order of their shards, else as given.

    A row that several tables have, with the same images, is kept once. Raises
    TableError if tables do not belong together or are incomplete, or if shards have
    none, unless ``allow_missing``. ``n_failed`` are the numbers of failed subjects of
    the runs that ended without a table: shards of so many inputs do not count as
    missing.
    """
    target = Path(output)
    table_format = find_format(target)
    if target.exists() and not overwrite:
        raise TableError(f"{target}: exists; replace it with --overwrite.")
    if not sources:
        raise TableError("expected tables to merge, got none.")
    # An unfinished run of the target would resume with the rows of the old table.
    _check_finished(target)
    # Sorting is stable: tables of no shard stay in the given order.
    parts = [_Part.open(Path(source)) for source in sources]
    parts.sort(key=lambda part: part.shard.index if part.shard else 0)
    provenance = _join_provenance(parts)
    check_sidecar(target)
    absent = without_failed(_find_absent(parts), n_failed)
    if absent and not allow_missing:
        raise TableError(
            f"{format_absent(absent)}; merge the others with --allow-missing."
        )
    kept = _choose_rows(parts, provenance["modalities"])
    columns = _join_columns(parts, kept, provenance["modalities"])
    vectors = chain.from_iterable(
        part.vectors(rows) for part, rows in zip(parts, kept, strict=True)
    )
    with naming_output(target), _working_folder(target) as folder:
        write_table(target, folder, table_format, columns, vectors, provenance)
    for part, rows in zip(parts, kept, strict=True):
        hashes = part.columns["input_sha256"]
        kept_pictures = PreviewFolder.beside(part.path)
        PreviewFolder.beside(target).take(kept_pictures, [hashes[row] for row in rows])
    return MergedTable(sum(map(len, kept)), absent)


def format_absent(absent: Sequence[Shard]) -> str:
    """List shards without a table in one line, as job arrays write several.

    >>> print(format_absent([Shard(3, 9)]))
    shard 3/9 has no table (no rows, all failed, or not ended)
    >>> print(format_absent([Shard(n, 9) for n in (1, 3, 4, 5, 9)]))
    shards 1,3-5,9 of 9 have no table (no rows, all failed, or not ended)
    """
    reasons = "(no rows, all failed, or not ended)"
    if len(absent) == 1:
        return f"shard {absent[0]} has no table {reasons}"
    ranges: list[list[int]] = []
    for shard in absent:
        if ranges and ranges[-1][-1] == shard.index - 1:
            ranges[-1].append(shard.index)
        else:
            ranges.append([shard.index])
    texts = ("-".join(map(str, dict.fromkeys([r[0], r[-1]]))) for r in ranges)
    return f"shards {','.join(texts)} of {absent[0].count} have no table {reasons}"


@contextmanager
def _working_folder(target: Path) -> Iterator[Path]:
    # The name is fixed, so that the next merge removes what a killed one leaves.
    folder = target.with_name(f".{target.name}.merging")
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(folder)
    try:
        yield folder
    finally:
        release_folder(folder, lock)


@dataclass(frozen=True, eq=False)
class _Part:
    """One of the tables, without its vectors."""

    path: Path
    provenance: Mapping[str, Any]
    columns: Mapping[str, Sequence[str | None]]
    shard: Shard | None

    @classmethod
    def open(cls, path: Path) -> "_Part":
        table_format = find_format(path)
        if not path.is_file():
            raise TableError(f"{path}: no such file.")
        _check_finished(path)
        provenance = read_origin(path, advice="not merged.")
        text = provenance.get("shard")
        shard = None if text is None else Shard.parse(str(text))
        texts = table_format.read_texts(path)
        check_columns(path, texts, provenance["modalities"])
        columns = complete_columns(texts, provenance["modalities"])
        return cls(path, provenance, columns, shard)

    def vectors(self, rows: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        kept = set(rows)
        blocks = find_format(self.path).iterate_vectors(self.path)
        for row, vector in enumerate(chain.from_iterable(blocks)):
            if row in kept:
                yield vector


def _check_finished(path: Path) -> None:
    if working_path(path).is_dir():
        raise TableError(
            f"{path}: expected a run that has ended, got {working_path(path)} "
            "beside it; run the command of this table again to resume it."
        )


def _join_provenance(parts: Sequence[_Part]) -> dict[str, Any]:
    provenance = dict(parts[0].provenance)
    for part in parts[1:]:
        check_identity(part.provenance, provenance, part.path, advice="not merged.")
        provenance |= join_precisions(provenance, part.provenance, part.path)
    for name in ("shard", "n_listed"):
        provenance.pop(name, None)
    return provenance


def _find_absent(parts: Sequence[_Part]) -> dict[Shard, int]:
    """Return the shards that no part is, with their numbers of inputs.

    Raises TableError if parts are of several runs.
    """
    shards = {part.shard: part.path for part in parts if part.shard is not None}
    counts = {shard.count: path for shard, path in shards.items()}
    if len(counts) > 1:
        names = ", ".join(f"{path.name} ({shard})" for shard, path in shards.items())
        raise TableError(
            f"expected shards of one run, got several: {names}; merge each run alone, "
            "and then their tables."
        )
    lengths = {
        part.provenance["n_listed"]: part.path.name
        for part in parts
        if "n_listed" in part.provenance
    }
    if len(lengths) > 1:
        # Shards of a list that grew between the jobs leave rows out.
        names = ", ".join(f"{name} ({length})" for length, name in lengths.items())
        raise TableError(
            "expected shards of one list of inputs, got lists of several lengths: "
            f"{names}; run the commands of all shards again, or merge each list alone "
            "if there are several."
        )
    return absent_shards(counts, shards, next(iter(lengths), None))


def absent_shards(
    counts: Iterable[int], known: Container[Shard | None], n_listed: int | None
) -> dict[Shard, int]:
    """Return the shards that are not ``known`` and have inputs, with their number.

    Tables of earlier versions do not say how many inputs were listed: None.
    """
    all_shards = (Shard(index, n) for n in counts for index in range(1, n + 1))
    absent = (shard for shard in all_shards if shard not in known)
    sizes = {s: 1 if n_listed is None else len(s.take(range(n_listed))) for s in absent}
    return {shard: size for shard, size in sizes.items() if size > 0}


def without_failed(
    absent: Mapping[Shard, int], n_failed: Sequence[int]
) -> tuple[Shard, ...]:
    """Leave out shards of which all inputs failed, by their numbers of inputs.

    ``n_failed`` are the numbers of failures of runs that ended without a table.
    """
    unclaimed, missing = sorted(n_failed), []
    for shard, n_inputs in sorted(absent.items(), key=lambda item: item[1]):
        enough = [number for number in unclaimed if number >= n_inputs]
        if enough:
            unclaimed.remove(enough[0])
        else:
            missing.append(shard)
    return tuple(sorted(missing, key=lambda shard: shard.index))


def _choose_rows(parts: Sequence[_Part], modalities: Sequence[str]) -> list[list[int]]:
    """Return the rows of each part that no earlier part has."""
    seen: dict[tuple[str | None, ...], tuple[_Part, str | None]] = {}
    kept = []
    for part in parts:
        rows = []
        hashes = part.columns["input_sha256"]
        # The images of a row identify it.
        images = (part.columns[name] for name in modalities)
        for row, key in enumerate(zip(*images, strict=True)):
            if key not in seen:
                seen[key] = part, hashes[row]
                rows.append(row)
            elif seen[key][1] != hashes[row]:
                raise TableError(
                    f"{part.path}: {part.columns['image'][row]} has changed since it "
                    f"was embedded in {seen[key][0].path}."
                )
        kept.append(rows)
    return kept


def _join_columns(
    parts: Sequence[_Part], kept: Sequence[Sequence[int]], modalities: Sequence[str]
) -> dict[str, list[str | None]]:
    present = [name for part in parts for name in part.columns]
    names = dict.fromkeys([*own_columns(modalities), *present])
    joined: dict[str, list[str | None]] = {name: [] for name in names}
    for part, rows in zip(parts, kept, strict=True):
        for name in names:
            values = part.columns.get(name, [None] * len(part.columns["image"]))
            joined[name] += [values[row] for row in rows]
    return joined
