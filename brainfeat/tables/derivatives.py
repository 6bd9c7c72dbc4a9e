"""BIDS derivatives: a small table per session or run."""

import contextlib
import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from filelock import BaseFileLock
from numpy.typing import NDArray

from brainfeat.exceptions import InputError, TableError
from brainfeat.io.atomic import naming_output
from brainfeat.io.json_files import format_json, read_json_object
from brainfeat.io.locks import FolderBusyError, lock_folder, release_folder
from brainfeat.preprocessing.quality import Quality
from brainfeat.subjects.bids.description import check_description, describe_derivatives
from brainfeat.subjects.subject import Subject, join_modalities
from brainfeat.tables.columns import quality_texts
from brainfeat.tables.formats import find_format
from brainfeat.tables.provenance import check_identity

__all__ = ["TABLE_NAME", "DerivativesFolder", "check_apart", "lock_working_folder"]

TABLE_NAME = "desc-brainfound_embedding.parquet"
_DATASET = "brainfeat embeddings"
# BIDS has no suffix for tables of features yet.
_IGNORED = "*_embedding.*\n*.failures.tsv\n*.failures.txt\n.working-*\n"
_ADVICE = "choose another folder, or replace it with --overwrite."


class DerivativesFolder:
    """A BIDS derivatives dataset with one table per session or run.

    Several processes may write to it, also for the same participants. ``source`` is the
    raw dataset, which is never written to; ``output`` names what concerns the whole
    dataset, such as its failures.
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
        check_apart(self.root, self._source)
        self.output = self.root / "participant"
        self._provenance = dict(provenance)
        self._overwrite = overwrite
        self._written: set[Path] = set()
        check_description(self.root, _DATASET)
        self.working_folder, self._lock = lock_working_folder(self.root)

    def known_sha256(self, row: Subject) -> str | None:
        """Return the hash of the images when the row was embedded, None if it is new.

        Raises InputError if its file cannot exist, as the name is too long, and
        TableError if it is of another encoder.
        """
        path = self.path_of(row)
        try:
            exists = path.is_file()
        except OSError as error:
            raise InputError(
                f"{path}: cannot be written ({error.strerror})."
            ) from error
        if self._overwrite and path not in self._written:
            return None
        sidecar = read_json_object(_sidecar_path(path)) if exists else None
        if sidecar is None:
            return None
        check_identity(sidecar, self._provenance, path, advice=_ADVICE)
        return _sha256_in(sidecar)

    def append(
        self,
        row: Subject,
        input_sha256: str,
        vector: NDArray[np.float32],
        voxel_mm: str | None = None,
        quality: Quality | None = None,
    ) -> None:
        """Write the table of a row, and its sidecar after it."""
        path = self.path_of(row)
        sidecar = {
            "Description": "Embedding of the brain by brainfeat.",
            "Sources": [self._uri(image) for image in row.paths.values()],
            **self._provenance,
            "input_sha256": input_sha256,
            "qc_doubt": None if quality is None else quality.doubt,
        }
        partial = self.working_folder / "embedding.parquet"
        measured = {"qc_voxel_mm": voxel_mm, **quality_texts(quality)}
        columns = self._describe(row, {**measured, "input_sha256": input_sha256})
        with naming_output(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            find_format(path).write(partial, columns, [vector], self._provenance)
            # A table without its sidecar is embedded again.
            _sidecar_path(path).unlink(missing_ok=True)
            partial.replace(path)
            self._write_text(_sidecar_path(path), format_json(sidecar))
        self._written.add(path)

    def is_in_doubt(self, row: Subject) -> bool:
        """Whether a row was embedded before, and its quality is in doubt."""
        sidecar = read_json_object(_sidecar_path(self.path_of(row)))
        return bool((sidecar or {}).get("qc_doubt"))

    def drop(self, row: Subject) -> None:
        """Delete the files of a row that was embedded before."""
        path = self.path_of(row)
        path.unlink(missing_ok=True)
        _sidecar_path(path).unlink(missing_ok=True)

    def finish(self, rows: Sequence[Subject]) -> int:
        """Describe the dataset, and delete superseded files; return the rows done."""
        link = self._source.as_uri()
        description = {
            **describe_derivatives(_DATASET),
            "SourceDatasets": [{"URL": link}],
            "DatasetLinks": {"raw": link},
        }
        path = self.root / "dataset_description.json"
        self._write_text(path, format_json(description))
        self._write_text(self.root / ".bidsignore", _IGNORED)
        self._write_text(self.root / "README.md", _README)
        # Path.is_file raises if a name is too long.
        done = [row for row in rows if os.path.isfile(self.path_of(row))]  # noqa: PTH113
        for row in done:
            for path in self._find_outdated(row):
                path.unlink(missing_ok=True)
                _sidecar_path(path).unlink(missing_ok=True)
        return len(done)

    def path_of(self, row: Subject) -> Path:
        """Name the table of a session or run."""
        folders = [name for name in (row.participant_id, row.session_id) if name]
        run = row.metadata.get("run")
        parts = [*folders, *([] if run is None else [f"run-{run}"]), TABLE_NAME]
        return self.root.joinpath(*folders, "anat", "_".join(parts))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        release_folder(self.working_folder, self._lock)

    def _describe(
        self, row: Subject, measured: Mapping[str, str | None]
    ) -> dict[str, list[str | None]]:
        modalities = self._provenance["modalities"]
        return {
            "participant_id": [row.participant_id],
            "session_id": [row.session_id],
            "run": [row.metadata.get("run")],
            "image": [row.image],
            **{m: [row.paths.get(m)] for m in modalities},
            "modalities": [join_modalities(row.paths, modalities)],
            **{name: [value] for name, value in measured.items()},
        }

    def _find_outdated(self, row: Subject) -> Iterator[Path]:
        """Yield the tables that the one of a row supersedes.

        Once a session has several runs, each has a table, and that of the session is
        outdated. Once it has a single run, only the table of the same images is: the
        other runs may just not have been selected.
        """
        path = self.path_of(replace(row, metadata={}))
        if row.metadata.get("run") is not None:
            yield path
            return
        start = glob.escape(path.name.removesuffix(TABLE_NAME))
        own = _sha256_in(read_json_object(_sidecar_path(path)))
        for other in path.parent.glob(f"{start}run-*_{TABLE_NAME}"):
            if own == _sha256_in(read_json_object(_sidecar_path(other))):
                yield other

    def _uri(self, image: str) -> str:
        path = Path(image)
        if path.is_relative_to(self._source):
            return f"bids:raw:{path.relative_to(self._source).as_posix()}"
        return path.as_uri()

    def _write_text(self, path: Path, text: str) -> None:
        partial = self.working_folder / path.name
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)


def check_apart(root: Path, source: Path) -> None:
    """Raise InputError unless ``source`` exists and derivatives may be in ``root``."""
    if not source.is_dir():
        raise InputError(f"{source}: no such folder.")
    is_inside = root.resolve().is_relative_to(source.resolve())
    derivatives = (source / "derivatives").resolve()
    if is_inside and not root.resolve().is_relative_to(derivatives):
        raise InputError(
            f"{root}: lies in the raw dataset, which is not written to; choose a "
            f"folder elsewhere, or in {source / 'derivatives'}."
        )


def lock_working_folder(root: Path) -> tuple[Path, BaseFileLock]:
    """Lock the first working folder that is free, and remove those of killed runs."""
    for left in root.glob(".working-*"):
        # Others are in use, or belong to other users.
        with contextlib.suppress(TableError, OSError):
            release_folder(left, lock_folder(left))
    index = 0
    while True:
        folder = root / f".working-{index}"
        try:
            return folder, lock_folder(folder)
        except FolderBusyError:
            index += 1


def _sidecar_path(table: Path) -> Path:
    # By the rules of BIDS.
    return table.with_suffix(".json")


def _sha256_in(sidecar: Mapping[str, Any] | None) -> str | None:
    value = (sidecar or {}).get("input_sha256")
    return None if value is None else str(value)


_README = """# brainfeat embeddings

A row per session or run: `sub-*/[ses-*/]anat/*_desc-brainfound_embedding.parquet`, with
the checkpoint, preprocessing and pooling in the JSON file beside it.
`group_desc-brainfound_embedding.parquet` holds all of them, joined with
`participants.tsv` and `sessions.tsv`; `brainfeat.read_embeddings` reads either.
"""
