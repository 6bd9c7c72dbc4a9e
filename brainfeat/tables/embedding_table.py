"""Embedding tables: one row per subject, resumable, never of two encoders."""

import itertools
import json
import logging
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from brainfeat.evaluation.acquisition import describe_thicknesses
from brainfeat.exceptions import TableError
from brainfeat.io.atomic import naming_output
from brainfeat.io.paths import expand_home
from brainfeat.preprocessing.quality import Quality
from brainfeat.subjects.subject import (
    ADDED_COLUMNS,
    Subject,
    is_reserved,
    join_modalities,
    own_columns,
)
from brainfeat.tables.columns import complete_columns, quality_texts
from brainfeat.tables.delimited import read_sidecar
from brainfeat.tables.formats import find_format
from brainfeat.tables.journal import RowJournal
from brainfeat.tables.previews import PreviewFolder
from brainfeat.tables.provenance import (
    check_identity,
    check_sidecar,
    describe_identity,
    join_precisions,
    read_origin,
    remove_table,
    write_table,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["EmbeddingTable", "check_columns", "read_embeddings", "working_path"]

_LOGGER = logging.getLogger(__name__)

_ADVICE = "choose another name, or replace it with --overwrite."

_SPEED = "seconds_per_volume"

Record = dict[str, str | None]


class EmbeddingTable:
    """A table that is computed row by row and replaced in one step.

    Rows go to a journal in a hidden folder beside the table, so that a killed run loses
    none. `finish` merges them with the rows of an earlier run and writes the table. The
    JSON file beside it repeats the provenance, which must contain the identity of the
    encoder (see `describe_identity`).
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        provenance: Mapping[str, Any],
        *,
        overwrite: bool = False,
    ) -> None:
        self.output = Path(output)
        self.previews = PreviewFolder.beside(output)
        self._format = find_format(output)
        self._provenance = dict(provenance)
        self._speed: dict[str, float] = {}  # of the last run that embedded rows
        self.working_folder = working_path(self.output)
        if self.output.is_dir():
            raise TableError(f"{self.output}: expected a file name, got a folder.")
        check_sidecar(self.output)
        # Lock first: the table must not change while it is read.
        self._journal = RowJournal(self.working_folder, int(provenance["n_features"]))
        try:
            self._begin(overwrite=overwrite)
        except BaseException:
            # Remove the folder if no run had started.
            self._journal.close(remove=self._journal.header is None)
            raise

    def known_sha256(self, row: Subject) -> str | None:
        """Return the hash of the images as embedded before, None if the row is new."""
        input_sha256 = self._journal.input_sha256(row.key)
        if input_sha256 is not None:
            return input_sha256
        record = self._finished.get(row.key)
        return None if record is None else record["input_sha256"]

    def append(
        self,
        row: Subject,
        input_sha256: str,
        vector: NDArray[np.float32],
        voxel_mm: str | None = None,
        quality: Quality | None = None,
    ) -> None:
        """Store the embedding of a row; it survives a kill from then on."""
        self._dropped.discard(row.key)
        self._journal.append(row.key, input_sha256, vector, voxel_mm, quality)

    def is_in_doubt(self, row: Subject) -> bool:
        """Whether a row was embedded before, and its quality is in doubt."""
        if self._journal.input_sha256(row.key) is not None:
            quality = self._journal.quality(row.key)
            return quality is not None and quality.doubt != ""
        return bool(self._finished.get(row.key, {}).get("qc_doubt"))

    def drop(self, row: Subject) -> None:
        """Leave a row out that was embedded before."""
        self._dropped.add(row.key)

    def record_speed(self, seconds_per_volume: float) -> None:
        """Keep how long a volume took in this run, for the JSON file."""
        self._speed = {_SPEED: round(seconds_per_volume, 3)}

    def finish(self, rows: Sequence[Subject]) -> int:
        """Write the old rows and then the embedded ones of ``rows``; return the count.

        A row replaces the old one of a subject that gained or lost an image, or whose
        files were moved. Rows of a killed run that are not in ``rows`` are dropped.
        Without any row, no table is written, and that of dropped rows is removed.
        """
        records = self._merge(rows)
        if self._dropped.intersection(self._finished) and not records:
            remove_table(self.output)
        self._report_other_modalities(records, rows)
        is_same = records == self._finished and not self._is_recounted
        if records and (self._journal.has_rows or not is_same):
            with naming_output(self.output, "; the rows are kept for the next run"):
                self._write(records)
        self._journal.close(remove=True)
        return len(records)

    def close(self) -> None:
        """Release the table; unfinished rows are kept for the next run."""
        self._journal.close(remove=not self._journal.has_rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _begin(self, *, overwrite: bool) -> None:
        identity = describe_identity(self._provenance)
        header = self._journal.header
        # A killed run that overwrites resumes too: its rows are already new.
        resumes = header is not None and (header["overwrites"] or not overwrite)
        self._finished: dict[str, Record] = {}
        self._dropped: set[str] = set()
        self._kept: Mapping[str, Any] = {}  # provenance of the finished rows
        self._is_recounted = False
        if not overwrite:
            if header is not None:
                begun_with = header["identity"]
                check_identity(begun_with, identity, self.output, advice=_ADVICE)
            self._finished = self._read_finished(identity)
        elif resumes and header is not None:
            resumes = header["identity"] == identity
        begun = header if header is not None and resumes else {}
        # The killed run may have used another machine.
        self._added = join_precisions(begun, self._provenance, self.output)
        origin: dict[str, Any] = {
            name: self._provenance[name]
            for name in ("shard", "n_listed")
            if name in self._provenance
        }
        self._journal.begin(
            {"identity": identity, "overwrites": overwrite, **self._added, **origin},
            discard=not resumes,
        )

    def _read_finished(self, identity: Mapping[str, Any]) -> dict[str, Record]:
        if not self.output.exists():
            return {}
        provenance = read_origin(self.output, advice=_ADVICE)
        check_identity(provenance, identity, self.output, advice=_ADVICE)
        self._kept = provenance
        noted = read_sidecar(self.output) or {}
        self._speed = {name: noted[name] for name in (_SPEED,) if name in noted}
        self._check_shard(provenance.get("shard"))
        count = self._provenance.get("n_listed")
        self._is_recounted = provenance.get("n_listed") != count
        texts = self._format.read_texts(self.output)
        check_columns(self.output, texts, identity["modalities"])
        columns = complete_columns(texts, identity["modalities"])
        records: dict[str, Record] = {}
        for values in zip(*columns.values(), strict=True):
            record = dict(zip(columns, values, strict=True))
            images = {m: record[m] for m in identity["modalities"] if record[m]}
            key = json.dumps(sorted(images.items()))  # as `Subject.key`
            if key in records:
                raise TableError(
                    f"{self.output}: expected other images in each row, got "
                    f"{record['image']} again; {_ADVICE}"
                )
            records[key] = record
        return records

    def _check_shard(self, shard: object) -> None:
        expected = self._provenance.get("shard")
        if expected not in {None, shard}:
            raise TableError(
                f"{self.output}: expected the table of shard {expected}, got that of "
                f"{'the whole' if shard is None else shard}; {_ADVICE}"
            )

    def _merge(self, rows: Sequence[Subject]) -> dict[str, Record]:
        requested = {row.key: row for row in rows}
        outdated = self._find_outdated(rows) | self._dropped
        merged = {}
        for key in dict.fromkeys([*self._finished, *requested]):
            new_sha256 = self._journal.input_sha256(key) if key in requested else None
            record = self._finished.get(key)
            if key in outdated or (new_sha256 is None and record is None):
                continue
            # The current manifest also describes rows that were embedded before.
            merged[key] = {**(record or {}), **self._describe(requested.get(key))}
            if new_sha256 is not None:
                merged[key]["input_sha256"] = new_sha256
                merged[key]["qc_voxel_mm"] = self._journal.voxel_mm(key)
                merged[key] |= quality_texts(self._journal.quality(key))
        return merged

    def _report_other_modalities(
        self, records: Mapping[str, Record], rows: Sequence[Subject]
    ) -> None:
        """Warn of rows of earlier runs whose modalities no row of this run has."""
        keys = {row.key for row in rows}
        new = {record["modalities"] for key, record in records.items() if key in keys}
        kept = [r["modalities"] for key, r in records.items() if key not in keys]
        others = [str(name) for name in kept if name not in new]
        if new and others:
            _LOGGER.warning(
                "%s: %d rows of earlier runs have other modalities (%s), which "
                "embeddings show; --overwrite leaves them out",
                *(self.output, len(others), ", ".join(sorted(set(others)))),
            )

    def _find_outdated(self, rows: Sequence[Subject]) -> set[str]:
        """Return the keys of finished rows that embedded ``rows`` replace.

        Either the images of one are a subset of the other's, or subject, session, file
        names and content are the same in another folder.
        """
        by_image = defaultdict(list)
        embedded = set()
        for row in rows:
            sha256 = self.known_sha256(row)
            if sha256 is not None:
                session = row.participant_id, row.session_id
                embedded.add(_location_free_key(*session, row.paths, sha256))
                for image in row.images.items():
                    by_image[image].append(row.images.items())
        outdated = set()
        for key in self._finished.keys() - {row.key for row in rows}:
            images, record = dict(json.loads(key)), self._finished[key]
            old = images.items()
            owner = record["participant_id"], record["session_id"]
            location_free = _location_free_key(*owner, images, record["input_sha256"])
            if location_free in embedded or any(
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
            "modalities": join_modalities(row.paths, modalities),
            **{n: v for n, v in row.metadata.items() if not is_reserved(n, modalities)},
        }

    def _write(self, records: Mapping[str, Record]) -> None:
        modalities = self._provenance["modalities"]
        named = [name for record in records.values() for name in record]
        names = dict.fromkeys([*own_columns(modalities), *named])
        columns = {name: [r.get(name) for r in records.values()] for name in names}
        added = self._added if self._journal.has_rows else {}
        joined = join_precisions(self._kept, added, self.output)
        # In the journal's folder, so that a kill leaves nothing elsewhere.
        write_table(
            self.output,
            self.working_folder,
            self._format,
            columns,
            self._vectors(records),
            {**self._provenance, **joined},
            self._speed,
        )
        if mixed := describe_thicknesses(columns["qc_voxel_mm"]):
            _LOGGER.warning("%s: %s", self.output, mixed)

    def _vectors(self, records: Mapping[str, Record]) -> Iterator[NDArray[np.float32]]:
        if self._finished:
            blocks = self._format.iterate_vectors(self.output)
            kept = itertools.chain.from_iterable(blocks)
            for (key, old), vector in zip(self._finished.items(), kept, strict=True):
                if key not in records:
                    continue
                changed = records[key]["input_sha256"] != old["input_sha256"]
                yield self._journal.read(key) if changed else vector
        for key in records:
            if key not in self._finished:
                yield self._journal.read(key)


def working_path(output: Path) -> Path:
    """Name the hidden folder of an unfinished run beside its table."""
    return output.with_name(f".{output.name}.partial")


def check_columns(
    path: Path, columns: Collection[str], modalities: Sequence[str]
) -> None:
    """Raise TableError if a table lost a column that it was written with."""
    given = {*columns, *ADDED_COLUMNS}
    lost = [name for name in own_columns(modalities) if name not in given]
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
        One row per subject: ``participant_id``, ``session_id``, ``image``, a path per
        modality, ``modalities`` (those it has, such as ``"T1w+FLAIR"``),
        ``qc_voxel_mm`` (native voxel edges of the first, such as ``"1.0x1.0x1.2"``),
        ``qc_similarity`` (correlation with a model of a head), ``qc_brain_ml`` (volume
        of the brain that was found), ``qc_doubt`` (why the brain may be misplaced or
        not whole, ``""`` if there is no doubt), ``input_sha256``, then the manifest's
        own columns. Tables of earlier versions have no values of these three.
    embeddings : ndarray of float32 of shape (n_subjects, n_features)
        In the same order.
    provenance : dict
        Checkpoint, preprocessing and pooling of the embeddings; empty for a CSV or TSV
        file without its JSON file.

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
    blocks = list(table_format.iterate_vectors(source))
    if not blocks or blocks[0].shape[1] == 0:
        raise TableError(f"{source}: expected columns emb_*, got none with values.")
    provenance = table_format.read_provenance(source) or {}
    metadata = columns.to_pandas()
    completed = complete_columns(columns.to_pydict(), provenance.get("modalities", []))
    for position, (name, values) in enumerate(completed.items()):
        if name not in metadata and provenance:
            metadata.insert(position, name, values)
    if "qc_doubt" in metadata:
        metadata["qc_doubt"] = completed["qc_doubt"]
    return metadata, np.concatenate(blocks), provenance


def _location_free_key(
    participant_id: str | None,
    session_id: str | None,
    images: Mapping[str, str],
    input_sha256: str | None,
) -> tuple[object, ...]:
    """Return a key that stays the same if the files are moved."""
    names = sorted((modality, Path(path).name) for modality, path in images.items())
    return participant_id, session_id, *names, input_sha256
