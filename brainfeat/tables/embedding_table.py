"""Embedding tables: one row a subject, resumable, and honest about their origin."""

import itertools
import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from brainfeat.exceptions import TableError
from brainfeat.io.paths import expand_home
from brainfeat.subjects.subject import Subject, is_reserved, own_columns
from brainfeat.tables.formats import Layout, find_format
from brainfeat.tables.journal import RowJournal
from brainfeat.tables.provenance import (
    check_identity,
    check_sidecar,
    describe_identity,
    join_precisions,
    read_origin,
    write_table,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "EmbeddingTable",
    "check_columns",
    "read_embeddings",
    "working_path",
]

_ADVICE = "choose another name, or replace it with --overwrite."

Record = dict[str, str | None]


def _key(images: Mapping[str, str | None]) -> str:
    return json.dumps(sorted(images.items()))


class EmbeddingTable:
    """A table that grows row by row and is written whole.

    Rows go to a journal in a hidden folder beside the table, so that a killed
    run loses none; :meth:`finish` merges them with the rows that the table had
    and replaces it in one step. Rows of another encoder are never mixed in.

    Parameters
    ----------
    output : path-like
        File that ends in ``.parquet``, ``.csv`` or ``.tsv``. A JSON file of the
        same name beside it repeats the provenance.
    provenance : mapping of str to JSON values
        Must hold ``checkpoint_sha256``, ``preprocessing_sha256``, ``pooling``,
        ``modalities`` and ``n_features``.
    overwrite : bool
        Replace a table that is there instead of going on with it.
    layout : {"wide", "list"}
        As for `find_format`; a table that is there takes it once rows are added.

    Attributes
    ----------
    output : Path
        The table.
    working_folder : Path
        What is not whole yet; gone once the table is finished.

    Raises
    ------
    TableError
        If the table, or an unfinished run, comes from another encoder, or another
        process is writing it.
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        provenance: Mapping[str, Any],
        *,
        overwrite: bool = False,
        layout: Layout = "wide",
    ) -> None:
        self.output = Path(output)
        self._format = find_format(output, layout)
        self._provenance = dict(provenance)
        self.working_folder = working_path(self.output)
        if self.output.is_dir():
            raise TableError(f"{self.output}: expected a file name, got a folder.")
        check_sidecar(self.output, self._provenance)
        # The lock comes first: what is there must not change while we look.
        self._journal = RowJournal(self.working_folder, int(provenance["n_features"]))
        try:
            self._begin(overwrite=overwrite)
        except BaseException:
            # What is no run's yet is no trace to leave.
            self._journal.close(remove=self._journal.header is None)
            raise

    def known_sha256(self, row: Subject) -> str | None:
        """Say what the images of a row held when it was embedded.

        Parameters
        ----------
        row : Subject
            The row.

        Returns
        -------
        str or None
            Fingerprint of its images; None if it is new.
        """
        entry = self._journal.entries.get(row.key)
        if entry is not None:
            return entry.input_sha256
        record = self._finished.get(row.key)
        return None if record is None else record["input_sha256"]

    def append(
        self, row: Subject, input_sha256: str, vector: NDArray[np.float32]
    ) -> None:
        """Keep the embedding of a row; a killed process loses nothing of it.

        Parameters
        ----------
        row : Subject
            The row.
        input_sha256 : str
            Fingerprint of its images.
        vector : ndarray of shape (n_features,)
            Its embedding.

        Raises
        ------
        TableError
            If the vector has another length.
        """
        self._journal.append(row.key, input_sha256, vector)

    def finish(self, rows: Sequence[Subject]) -> int:
        """Write the table: the rows that it had, then ``rows`` as far as done.

        A row whose subject has another image now, or one less, or whose files were
        moved, gives way to the new one.

        Parameters
        ----------
        rows : sequence of Subject
            Everything that this run was asked for. Rows that an unfinished run
            left behind and that are not asked for now are dropped.

        Returns
        -------
        int
            Number of rows in the table. With none, no table is written.

        Raises
        ------
        TableError
            If the disk is full; the rows are kept.
        """
        records = self._merge(rows)
        is_same = records == self._finished and not self._is_recounted
        if records and (self._journal.entries or not is_same):
            try:
                self._write(records)
            except OSError as error:
                raise TableError(
                    f"{self.output}: cannot be written ({error.strerror or error}); "
                    "the rows are kept for the next run."
                ) from error
        self._journal.close(remove=True)
        return len(records)

    def close(self) -> None:
        """Release the table; rows that are not in it yet wait for the next run."""
        self._journal.close(remove=not self._journal.entries)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _begin(self, *, overwrite: bool) -> None:
        identity = describe_identity(self._provenance)
        header = self._journal.header
        # An overwriting run that was killed goes on: its rows are new already.
        goes_on = header is not None and (header["overwrites"] or not overwrite)
        self._finished: dict[str, Record] = {}
        self._kept: Mapping[str, Any] = {}  # provenance of the finished rows
        self._is_recounted = False
        if not overwrite:
            if header is not None:
                check_identity(
                    header["identity"], identity, self.output, advice=_ADVICE
                )
            self._finished = self._read_finished(identity)
        elif goes_on and header is not None:
            goes_on = header["identity"] == identity
        begun = header if header is not None and goes_on else {}
        # The run that was killed may have been on another machine.
        self._added = join_precisions(begun, self._provenance, self.output)
        self._journal.begin(
            {"identity": identity, "overwrites": overwrite, **self._added},
            discard=not goes_on,
        )

    def _read_finished(self, identity: Mapping[str, Any]) -> dict[str, Record]:
        if not self.output.exists():
            return {}
        provenance = read_origin(self.output, advice=_ADVICE)
        check_identity(provenance, identity, self.output, advice=_ADVICE)
        self._kept = provenance
        shard, now = provenance.get("shard"), self._provenance.get("shard")
        if now not in {None, shard}:
            raise TableError(
                f"{self.output}: expected the table of shard {now}, got that of "
                f"{'the whole' if shard is None else shard}; {_ADVICE}"
            )
        count = self._provenance.get("n_listed")
        self._is_recounted = provenance.get("n_listed") != count
        columns = self._format.read_texts(self.output)
        check_columns(self.output, columns, identity["modalities"])
        records: dict[str, Record] = {}
        for values in zip(*columns.values(), strict=True):
            record = dict(zip(columns, values, strict=True))
            images = {m: record[m] for m in identity["modalities"] if record[m]}
            if _key(images) in records:
                raise TableError(
                    f"{self.output}: expected other images in each row, got "
                    f"{record['image']} again; {_ADVICE}"
                )
            records[_key(images)] = record
        return records

    def _merge(self, rows: Sequence[Subject]) -> dict[str, Record]:
        wanted = {row.key: row for row in rows}
        outdated = self._find_outdated(rows)
        merged = {}
        for key in dict.fromkeys([*self._finished, *wanted]):
            entry = self._journal.entries.get(key) if key in wanted else None
            record = self._finished.get(key)
            if key in outdated or (entry is None and record is None):
                continue
            # What the manifest says now counts, also for rows that were done.
            merged[key] = {**(record or {}), **self._describe(wanted.get(key))}
            if entry is not None:
                merged[key]["input_sha256"] = entry.input_sha256
        return merged

    def _find_outdated(self, rows: Sequence[Subject]) -> set[str]:
        """Give the rows that others took the place of.

        Their subject has gained or lost an image since: one of ``rows`` that is done
        has all images of theirs and more, or some of them. Or their files were moved:
        one that is done has the same under other paths.
        """
        by_image = defaultdict(list)
        scans = set()
        for row in rows:
            sha256 = self.known_sha256(row)
            if sha256 is not None:
                scans.add(_scan(row.participant_id, row.session_id, row.paths, sha256))
                for image in row.images.items():
                    by_image[image].append(row.images.items())
        outdated = set()
        for key in self._finished.keys() - {row.key for row in rows}:
            images, record = dict(json.loads(key)), self._finished[key]
            old = images.items()
            who = record["participant_id"], record["session_id"]
            if _scan(*who, images, record["input_sha256"]) in scans or any(
                old <= new or new <= old for image in old for new in by_image[image]
            ):
                outdated.add(key)
        return outdated

    def _describe(self, row: Subject | None) -> Record:
        if row is None:
            return {}
        modalities = self._provenance["modalities"]
        return {
            "participant_id": row.participant_id,
            "session_id": row.session_id,
            "image": row.image,
            **{m: row.paths.get(m) for m in modalities},
            **{n: v for n, v in row.metadata.items() if not is_reserved(n, modalities)},
        }

    def _write(self, records: Mapping[str, Record]) -> None:
        modalities = self._provenance["modalities"]
        named = [name for record in records.values() for name in record]
        names = dict.fromkeys([*own_columns(modalities), *named])
        columns = {name: [r.get(name) for r in records.values()] for name in names}
        added = self._added if self._journal.entries else {}
        joined = join_precisions(self._kept, added, self.output)
        provenance = {**self._provenance, **joined}
        # Inside the journal's folder, so that a kill here leaves nothing behind.
        write_table(
            self.output,
            self.working_folder,
            self._format,
            columns,
            self._vectors(records),
            provenance,
        )

    def _vectors(self, records: Mapping[str, Record]) -> Iterator[NDArray[np.float32]]:
        entries = self._journal.entries
        if self._finished:
            parts = self._format.iterate_vectors(self.output)
            kept = itertools.chain.from_iterable(parts)
            for (key, old), vector in zip(self._finished.items(), kept, strict=True):
                if key not in records:
                    continue
                changed = records[key]["input_sha256"] != old["input_sha256"]
                yield self._journal.read(entries[key].position) if changed else vector
        for key in records:
            if key not in self._finished:
                yield self._journal.read(entries[key].position)


def _scan(
    participant_id: str | None,
    session_id: str | None,
    images: Mapping[str, str],
    input_sha256: str | None,
) -> tuple[object, ...]:
    """Tell a scan from others wherever its files lie."""
    names = sorted((modality, Path(path).name) for modality, path in images.items())
    return participant_id, session_id, *names, input_sha256


def working_path(output: Path) -> Path:
    """Name the folder of a run that has not ended, beside its table.

    Parameters
    ----------
    output : Path
        The table.

    Returns
    -------
    Path
        A hidden folder.
    """
    return output.with_name(f".{output.name}.partial")


def check_columns(
    path: Path, columns: Collection[str], modalities: Sequence[str]
) -> None:
    """Check that a table has the columns that it was written with.

    Parameters
    ----------
    path : Path
        The table.
    columns : collection of str
        What it has now: other programs can write tables, too.
    modalities : sequence of str
        Modalities of the table.

    Raises
    ------
    TableError
        If one is not there.
    """
    lost = [name for name in own_columns(modalities) if name not in columns]
    if lost:
        raise TableError(
            f"{path}: expected the columns that it was written with, got none called "
            f"{', '.join(lost)}."
        )


def read_embeddings(
    path: str | os.PathLike[str],
) -> tuple["pd.DataFrame", NDArray[np.float32], dict[str, Any]]:
    """Read a table that ``brainfeat embed`` wrote.

    Parameters
    ----------
    path : path-like
        File that ends in ``.parquet``, ``.csv`` or ``.tsv``.

    Returns
    -------
    metadata : DataFrame
        One row a subject: ``participant_id``, ``session_id``, ``image``, a path a
        modality, ``input_sha256``, then the manifest's own columns.
    embeddings : ndarray of float32 of shape (n_subjects, n_features)
        In the same order.
    provenance : dict
        Checkpoint, preprocessing and pooling that made them; empty if a CSV or
        TSV has lost the JSON file beside it.

    Raises
    ------
    TableError
        If there is no such table, or it holds no embeddings.
    """
    source = expand_home(path)
    table_format = find_format(source)
    if not source.is_file():
        raise TableError(f"{source}: no such file.")
    columns = table_format.read_columns(source)
    parts = list(table_format.iterate_vectors(source))
    if not parts or parts[0].shape[1] == 0:
        raise TableError(f"{source}: expected columns emb_*, got none with values.")
    provenance = table_format.read_provenance(source) or {}
    return columns.to_pandas(), np.concatenate(parts), provenance
