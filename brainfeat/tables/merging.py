"""Tables of the parts of a run, joined to the table of the whole."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from brainfeat.exceptions import TableError
from brainfeat.io.locks import lock_folder, release_folder
from brainfeat.subjects.subject import own_columns
from brainfeat.tables.embedding_table import check_columns, working_path
from brainfeat.tables.formats import Layout, find_format
from brainfeat.tables.provenance import (
    check_identity,
    check_sidecar,
    join_precisions,
    read_origin,
    write_table,
)
from brainfeat.tables.shards import Shard

__all__ = ["MergedTable", "merge_tables"]


class MergedTable(NamedTuple):
    """What became of tables that were merged.

    Attributes
    ----------
    n_rows : int
        Number of rows. A row that several tables have, with the same images, is
        taken once.
    absent : tuple of Shard
        Parts of the run that were not among the tables.
    """

    n_rows: int
    absent: tuple[Shard, ...]


def merge_tables(
    sources: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    layout: Layout = "wide",
) -> MergedTable:
    """Join tables into one, in the order of their shards.

    Parameters
    ----------
    sources : sequence of path-like
        Tables of one checkpoint, preprocessing and pooling, in any format. Those
        that say which shard they are come in that order, others as they are given.
    output : path-like
        Table to write.
    overwrite : bool
        Whether to replace a table that is there.
    layout : {"wide", "list"}
        As for ``brainfeat embed``.

    Returns
    -------
    MergedTable
        Its rows, and the shards that are not in it.

    Raises
    ------
    TableError
        If there is no source, one cannot be read, is not ended or comes from another
        encoder, two have the same images with other contents or are shards of other
        runs, the output has a run that is not ended or another process is writing it,
        or the JSON file beside it belongs to something else.
    """
    target = Path(output)
    table_format = find_format(target, layout)
    if target.exists() and not overwrite:
        raise TableError(f"{target}: exists; replace it with --overwrite.")
    if not sources:
        raise TableError("expected tables to merge, got none.")
    # Its run would go on with the rows of the old table.
    _check_ended(target)
    parts = sorted(map(_Part.open, map(Path, sources)), key=lambda part: part.place)
    provenance = dict(parts[0].provenance)
    for part in parts[1:]:
        check_identity(part.provenance, provenance, part.path, advice="not merged.")
        provenance |= join_precisions(provenance, part.provenance, part.path)
    for name in ("shard", "n_listed"):
        provenance.pop(name, None)
    check_sidecar(target, provenance)
    absent = _find_absent(parts)
    kept = _choose_rows(parts, provenance["modalities"])
    columns = _join_columns(parts, kept, provenance["modalities"])
    vectors = chain.from_iterable(
        part.vectors(rows) for part, rows in zip(parts, kept, strict=True)
    )
    # A folder of a fixed name, so that what a killed merge leaves is found again.
    folder = target.with_name(f".{target.name}.merging")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _held(folder):
            write_table(target, folder, table_format, columns, vectors, provenance)
    except OSError as error:
        raise TableError(
            f"{target}: cannot be written ({error.strerror or error})."
        ) from error
    return MergedTable(sum(map(len, kept)), absent)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    lock = lock_folder(folder)
    try:
        yield
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
        _check_ended(path)
        provenance = read_origin(path, advice="not merged.")
        text = provenance.get("shard")
        shard = None if text is None else Shard.parse(str(text))
        columns = table_format.read_texts(path)
        check_columns(path, columns, provenance["modalities"])
        return cls(path, provenance, columns, shard)

    @property
    def place(self) -> int:
        """Which shard it is; the first if it is none, as order is kept then."""
        return 0 if self.shard is None else self.shard.index

    @property
    def n_rows(self) -> int:
        return len(self.columns["image"])

    def keys(self, modalities: Sequence[str]) -> list[tuple[str | None, ...]]:
        """Tell rows apart by the images that they were made from."""
        return list(zip(*(self.columns[name] for name in modalities), strict=True))

    def vectors(self, rows: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        wanted = set(rows)
        blocks = find_format(self.path).iterate_vectors(self.path)
        for row, vector in enumerate(chain.from_iterable(blocks)):
            if row in wanted:
                yield vector


def _check_ended(path: Path) -> None:
    if working_path(path).is_dir():
        raise TableError(
            f"{path}: expected a run that has ended, got {working_path(path)} "
            "beside it; the command of this table again goes on."
        )


def _find_absent(parts: Sequence[_Part]) -> tuple[Shard, ...]:
    """Give the shards of the run that no part is.

    Raises
    ------
    TableError
        If parts come from runs that were cut differently, or of other lengths.
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
        # The shards of a list that grew meanwhile leave rows out.
        names = ", ".join(f"{name} ({length})" for length, name in lengths.items())
        raise TableError(
            "expected shards of one list of inputs, got lists of several lengths: "
            f"{names}; run the commands of all shards again, or merge each list alone "
            "if there are several."
        )
    whole = (Shard(index, n) for n in counts for index in range(1, n + 1))
    return tuple(shard for shard in whole if shard not in shards)


def _choose_rows(parts: Sequence[_Part], modalities: Sequence[str]) -> list[list[int]]:
    """Give the rows of each part that no part before it has.

    Raises
    ------
    TableError
        If a row was made from other images in another part.
    """
    seen: dict[tuple[str | None, ...], tuple[_Part, str | None]] = {}
    kept = []
    for part in parts:
        rows = []
        hashes = part.columns["input_sha256"]
        for row, key in enumerate(part.keys(modalities)):
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
    named = [name for part in parts for name in part.columns]
    names = dict.fromkeys([*own_columns(modalities), *named])
    joined: dict[str, list[str | None]] = {name: [] for name in names}
    for part, rows in zip(parts, kept, strict=True):
        for name in names:
            values = part.columns.get(name, [None] * part.n_rows)
            joined[name] += [values[row] for row in rows]
    return joined
