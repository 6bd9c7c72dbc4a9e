"""BIDS derivatives: a small table a session, and one of the whole group."""

import contextlib
import glob
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from filelock import BaseFileLock
from numpy.typing import NDArray

from brainfeat.exceptions import InputError, TableError
from brainfeat.io.json_files import read_json_object
from brainfeat.io.locks import FolderBusyError, lock_folder, release_folder
from brainfeat.subjects.bids.description import check_description, describe_derivatives
from brainfeat.subjects.bids.filter import BidsSelection
from brainfeat.subjects.bids.index import read_participants, read_sessions
from brainfeat.subjects.subject import Subject, is_reserved
from brainfeat.tables.formats import find_format, sidecar_path
from brainfeat.tables.provenance import (
    check_identity,
    join_precisions,
    read_origin,
    write_table,
)

__all__ = ["DerivativesFolder", "write_group_table"]

logger = logging.getLogger(__name__)

_NAME = "desc-brainfound_embedding.parquet"
_OURS = "brainfeat embeddings"
# Tables of features have no suffix in BIDS yet.
_IGNORED = "*_embedding.*\n*.failures.tsv\n*.failures.txt\n.working-*\n"
_ADVICE = "choose another folder, or replace it with --overwrite."


class DerivativesFolder:
    """A BIDS derivatives dataset that takes one file a session or run.

    Several processes may write to it, for different participants or the same.

    Parameters
    ----------
    output : path-like
        Root of the derivatives; created if needed.
    source : path-like
        Root of the raw dataset, which is never written to.
    provenance : mapping of str to JSON values
        As for `EmbeddingTable`.
    overwrite : bool
        Embed again what is there.

    Attributes
    ----------
    output : Path
        Stem of what concerns the whole dataset.
    working_folder : Path
        What is not whole yet; this process's own.

    Raises
    ------
    InputError
        If the folder is part of the raw data, or holds another dataset.
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        source: str | os.PathLike[str],
        provenance: Mapping[str, Any],
        *,
        overwrite: bool = False,
    ) -> None:
        self.root, self._source = Path(output).absolute(), Path(source).absolute()
        _check_apart(self.root, self._source)
        self.output = self.root / "participant"
        self._provenance = dict(provenance)
        self._overwrite = overwrite
        self._written: set[Path] = set()
        check_description(self.root, _OURS)
        self.working_folder, self._lock = _find_working_folder(self.root)

    def known_sha256(self, row: Subject) -> str | None:
        """Say what the images of a row held when it was embedded.

        Parameters
        ----------
        row : Subject
            A session or run.

        Returns
        -------
        str or None
            Fingerprint of its images; None if there is no file of it.

        Raises
        ------
        InputError
            If a file of its name cannot be, as it is too long.
        TableError
            If its file comes from another encoder.
        """
        path = self.path_of(row)
        try:
            is_there = path.is_file()
        except OSError as error:
            raise InputError(
                f"{path}: cannot be written ({error.strerror})."
            ) from error
        if self._overwrite and path not in self._written:
            return None
        sidecar = read_json_object(sidecar_path(path)) if is_there else None
        if sidecar is None:
            return None
        check_identity(sidecar, self._provenance, path, advice=_ADVICE)
        return _sha256_in(sidecar)

    def append(
        self, row: Subject, input_sha256: str, vector: NDArray[np.float32]
    ) -> None:
        """Write the file of a row, and its sidecar after it.

        Parameters
        ----------
        row : Subject
            A session or run.
        input_sha256 : str
            Fingerprint of its images.
        vector : ndarray of shape (n_features,)
            Its embedding.

        Raises
        ------
        TableError
            If the disk is full.
        """
        path = self.path_of(row)
        columns: dict[str, list[str | None]] = {
            "participant_id": [row.participant_id],
            "session_id": [row.session_id],
            "run": [row.metadata.get("run")],
            "image": [row.image],
            **{m: [row.paths.get(m)] for m in self._provenance["modalities"]},
            "input_sha256": [input_sha256],
        }
        sidecar = {
            "Description": "Embedding of the brain by brainfeat.",
            "Sources": [self._uri(image) for image in row.paths.values()],
            **self._provenance,
            "input_sha256": input_sha256,
        }
        partial = self.working_folder / "embedding.parquet"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            find_format(path).write(partial, columns, [vector], self._provenance)
            # A table without its sidecar is embedded again.
            sidecar_path(path).unlink(missing_ok=True)
            partial.replace(path)
            self._place(sidecar_path(path), _dumps(sidecar))
        except OSError as error:
            reason = error.strerror or error
            raise TableError(f"{path}: cannot be written ({reason}).") from error
        self._written.add(path)

    def finish(self, rows: Sequence[Subject]) -> int:
        """Describe the dataset, and remove what gave way to files of ``rows``.

        Parameters
        ----------
        rows : sequence of Subject
            Everything that was asked for.

        Returns
        -------
        int
            Number of rows that have a file.
        """
        link = self._source.as_uri()
        description = {
            **describe_derivatives(_OURS),
            "SourceDatasets": [{"URL": link}],
            "DatasetLinks": {"raw": link},
        }
        self._place(self.root / "dataset_description.json", _dumps(description))
        self._place(self.root / ".bidsignore", _IGNORED)
        self._place(self.root / "README.md", _README)
        # Path.is_file raises if a name is too long.
        done = [row for row in rows if os.path.isfile(self.path_of(row))]  # noqa: PTH113
        for row in done:
            for path in self._find_outdated(row):
                path.unlink(missing_ok=True)
                sidecar_path(path).unlink(missing_ok=True)
        return len(done)

    def close(self) -> None:
        """Release the folder."""
        release_folder(self.working_folder, self._lock)

    def path_of(self, row: Subject) -> Path:
        """Name the file of a row.

        Parameters
        ----------
        row : Subject
            A session or run.

        Returns
        -------
        Path
            Where its embedding is, or will be.
        """
        places = [name for name in (row.participant_id, row.session_id) if name]
        run = row.metadata.get("run")
        parts = [*places, *([] if run is None else [f"run-{run}"]), _NAME]
        return self.root.joinpath(*places, "anat", "_".join(parts))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _find_outdated(self, row: Subject) -> Iterator[Path]:
        """Give the files that one of a session took the place of.

        A session that gained a second run has a file a run now; the one from before
        goes. Where it lost one, or another was not asked for, only the file of the
        same images goes.
        """
        path = self.path_of(replace(row, metadata={}))
        if row.metadata.get("run") is not None:
            yield path
            return
        start = glob.escape(path.name.removesuffix(_NAME))
        own = _sha256_in(read_json_object(sidecar_path(path)))
        for other in path.parent.glob(f"{start}run-*_{_NAME}"):
            if own == _sha256_in(read_json_object(sidecar_path(other))):
                yield other

    def _uri(self, image: str) -> str:
        path = Path(image)
        if path.is_relative_to(self._source):
            return f"bids:raw:{path.relative_to(self._source).as_posix()}"
        return path.as_uri()

    def _place(self, path: Path, text: str) -> None:
        partial = self.working_folder / path.name
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)


def write_group_table(
    output: str | os.PathLike[str],
    source: str | os.PathLike[str],
    selection: BidsSelection | None = None,
) -> tuple[Path, int]:
    """Gather the files of a derivatives folder, beside what is known of the people.

    Parameters
    ----------
    output : path-like
        Root of the derivatives.
    source : path-like
        Root of the raw dataset, whose ``participants.tsv`` and ``sessions.tsv`` are
        joined.
    selection : BidsSelection, optional
        Participants and sessions to gather; all by default.

    Returns
    -------
    path : Path
        The table.
    n_rows : int
        Its rows.

    Raises
    ------
    InputError
        If there is no raw dataset, a participant that is wanted is nowhere, or
        there is no embedding.
    TableError
        If some come from another encoder than the others, or the disk is full.
    """
    root, raw = Path(output).absolute(), Path(source).absolute()
    _check_apart(root, raw)
    paths = _find_tables(root, raw, selection or BidsSelection())
    if not paths:
        raise InputError(
            f"{root}: expected embeddings of participants, got none; run the level "
            "participant first."
        )
    people = read_participants(raw)
    table_format = find_format(paths[0])
    again = "remove it, and run the level participant again."
    provenance = read_origin(paths[0], advice=again)
    records = []
    for path in paths:
        origin = read_origin(path, advice=again)
        check_identity(origin, provenance, path, advice=again)
        provenance |= join_precisions(provenance, origin, path)
        record = {n: v[0] for n, v in table_format.read_texts(path).items()}
        visits = read_sessions(raw / str(record["participant_id"]))
        known = {
            **people.get(str(record["participant_id"]), {}),
            **visits.get(str(record["session_id"]), {}),
        }
        records.append({**record, **_drop_ours(known, provenance["modalities"])})
    names = dict.fromkeys(name for record in records for name in record)
    columns = {name: [record.get(name) for record in records] for name in names}
    target = root / f"group_{_NAME}"
    working, lock = _find_working_folder(root)
    try:
        vectors = _read_vectors(paths)
        write_table(target, working, table_format, columns, vectors, provenance)
    except OSError as error:
        reason = error.strerror or error
        raise TableError(f"{target}: cannot be written ({reason}).") from error
    finally:
        release_folder(working, lock)
    return target, len(records)


def _find_tables(root: Path, raw: Path, selection: BidsSelection) -> list[Path]:
    """Give the files of all who are wanted, and tell of who has none."""
    # Raw data may be gone once they are embedded.
    found = [*raw.glob("sub-*"), *root.glob("sub-*")]
    people = [path for path in found if path.is_dir()]
    wanted = {path.name for path in selection.take_participants(raw, people)}
    tables, without = [], set(wanted)
    for path in sorted(root.glob(f"sub-*/**/*_{_NAME}")):
        # Folders say whose it is: labels may hold underscores, against the rules.
        person, place = path.relative_to(root).parts[:2]
        visit = place if place.startswith("ses-") else None
        if person in wanted and selection.has_session(visit):
            tables.append(path)
            without.discard(person)
    if tables and without:
        text = "%s: no embedding of %d of %d participants, such as %s."
        logger.warning(text, root, len(without), len(wanted), min(without))
    return tables


def _drop_ours(
    known: Mapping[str, str | None], modalities: Sequence[str]
) -> dict[str, str | None]:
    return {
        name: value
        for name, value in known.items()
        if name != "run" and not is_reserved(name, modalities)
    }


def _read_vectors(paths: Sequence[Path]) -> Iterator[NDArray[np.float32]]:
    for path in paths:
        for block in find_format(path).iterate_vectors(path):
            yield from block


def _check_apart(root: Path, source: Path) -> None:
    if not source.is_dir():
        raise InputError(f"{source}: no such folder.")
    inside = root.resolve().is_relative_to(source.resolve())
    derivatives = (source / "derivatives").resolve()
    if inside and not root.resolve().is_relative_to(derivatives):
        raise InputError(
            f"{root}: lies in the raw dataset, which is not written to; choose a "
            f"folder elsewhere, or in {source / 'derivatives'}."
        )


def _find_working_folder(root: Path) -> tuple[Path, BaseFileLock]:
    """Take the first working folder that no process has; those of killed ones go.

    Raises
    ------
    TableError
        If it cannot be written or locked.
    """
    for left in root.glob(".working-*"):
        # In some others are at work, and some are other users'.
        with contextlib.suppress(TableError, OSError):
            release_folder(left, lock_folder(left))
    index = 0
    while True:
        folder = root / f".working-{index}"
        try:
            return folder, lock_folder(folder)
        except FolderBusyError:
            index += 1


def _sha256_in(sidecar: Mapping[str, Any] | None) -> str | None:
    found = (sidecar or {}).get("input_sha256")
    return None if found is None else str(found)


def _dumps(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"


_README = """# brainfeat embeddings

A row a session or run: `sub-*/[ses-*/]anat/*_desc-brainfound_embedding.parquet`, with
the checkpoint, preprocessing and pooling in the JSON file beside it.
`group_desc-brainfound_embedding.parquet` holds all of them, joined with
`participants.tsv` and `sessions.tsv`; `brainfeat.read_embeddings` reads either.
"""
