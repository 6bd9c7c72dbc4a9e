"""Where tables come from: which may be joined, and whose JSON file it is."""

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brainfeat._version import __version__
from brainfeat.exceptions import TableError
from brainfeat.io.json_files import read_json_object
from brainfeat.tables.formats import (
    TableFormat,
    TextColumns,
    find_format,
    sidecar_path,
)

if TYPE_CHECKING:
    from brainfeat.embedding.subject_encoder import SubjectEncoder

__all__ = [
    "check_identity",
    "check_sidecar",
    "describe_encoder",
    "describe_identity",
    "join_precisions",
    "read_origin",
    "write_table",
]

_LOGGER = logging.getLogger(__name__)

_UNKNOWN = "unknown"  # precision of rows that were written before it was

# Rows that differ in one of these cannot share a table.
_IDENTITY = {
    "checkpoint_sha256": "checkpoint",
    "preprocessing_sha256": "preprocessing",
    "pooling": "pooling",
    "modalities": "modalities",
    "n_features": "number of features",
}


def describe_encoder(encoder: "SubjectEncoder", checkpoint: str) -> dict[str, Any]:
    """Say what made a table, as it is stored with the table.

    Parameters
    ----------
    encoder : SubjectEncoder
        Checkpoint, preprocessing and pooling.
    checkpoint : str
        Name of the checkpoint that holds in other folders too.

    Returns
    -------
    dict
        JSON values.
    """
    # Others are numbered.
    is_named = encoder.pooling == "anatomy"
    return {
        "brainfeat_version": __version__,
        "checkpoint": checkpoint,
        "checkpoint_sha256": encoder.checkpoint.fingerprint,
        "trained": encoder.checkpoint.config.trained,
        "modalities": list(encoder.modalities),
        "pooling": encoder.pooling,
        "n_features": encoder.n_features,
        "precision": encoder.precision,
        **({"feature_names": list(encoder.feature_names)} if is_named else {}),
        "preprocessing_sha256": encoder.preprocessor.fingerprint,
        "preprocessing": encoder.preprocessor.to_dict(),
    }


def check_identity(
    old: Mapping[str, Any], new: Mapping[str, Any], path: Path, *, advice: str
) -> None:
    """Check that rows of two origins may share a table.

    Parameters
    ----------
    old, new : mapping of str to JSON values
        Provenance of a table that is there, and of what is to be added.
    path : Path
        The table that is there.
    advice : str
        What to do otherwise.

    Raises
    ------
    TableError
        If checkpoint, preprocessing, pooling, modalities or length differ.
    """
    for name, word in _IDENTITY.items():
        if old.get(name) != new[name]:
            raise TableError(
                f"{path}: made with another {word} ({_brief(old.get(name))}, now "
                f"{_brief(new[name])}); {advice}"
            )


def describe_identity(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Take what rows must agree on to share a table.

    Parameters
    ----------
    provenance : mapping of str to JSON values
        Where rows come from.

    Returns
    -------
    dict
        Checkpoint, preprocessing, pooling, modalities and length.
    """
    return {name: provenance[name] for name in _IDENTITY}


def read_origin(path: Path, *, advice: str) -> dict[str, Any]:
    """Read which encoder made a table.

    Parameters
    ----------
    path : Path
        The table.
    advice : str
        What to do if it does not say.

    Returns
    -------
    dict
        What the table was written with.

    Raises
    ------
    TableError
        If it does not say, as where another program wrote it again.
    """
    provenance = find_format(path).read_provenance(path)
    if provenance is None or "checkpoint_sha256" not in provenance:
        raise TableError(f"{path}: does not say which encoder made it; {advice}")
    return provenance


def join_precisions(
    kept: Mapping[str, Any], added: Mapping[str, Any], path: Path
) -> dict[str, str]:
    """Name the precisions of rows that share a table, and warn if another comes.

    Parameters
    ----------
    kept, added : mapping of str to JSON values
        Provenance of rows that are there, and of those that join them; empty where
        there are none.
    path : Path
        What the warning names.

    Returns
    -------
    dict of str to str
        What is new in the provenance of all.
    """
    old, new = map(_precisions, (kept, added))
    if old - {_UNKNOWN} and new - old - {_UNKNOWN}:
        _LOGGER.warning(
            "%s: rows of %s join rows of %s; that may look like a difference of sites "
            "(processors with bfloat16 round more; --dtype takes one on all)",
            path,
            ", ".join(sorted(new - old - {_UNKNOWN})),
            ", ".join(sorted(old - {_UNKNOWN})),
        )
    return {"precision": ", ".join(sorted(old | new))} if old | new else {}


def check_sidecar(output: Path, provenance: Mapping[str, Any]) -> None:
    """Check that the JSON file beside a table that is to be written is free or ours.

    Parameters
    ----------
    output : Path
        Table to write.
    provenance : mapping of str to JSON values
        What its JSON file will say.

    Raises
    ------
    TableError
        If a file of that name belongs to something else, or to a table of another
        encoder.
    """
    path = sidecar_path(output)
    if not path.exists():
        return
    found = read_json_object(path) or {}
    if "checkpoint_sha256" not in found:
        raise TableError(f"{path}: exists and is not ours; choose another output name.")
    others = {output.with_suffix(s) for s in (".parquet", ".csv", ".tsv")} - {output}
    owners = [other.name for other in sorted(others) if other.exists()]
    if owners and _differ(found, provenance):
        raise TableError(
            f"{path}: describes {owners[0]}, made with another encoder; "
            "choose another output name."
        )


def write_table(
    output: Path,
    folder: Path,
    table_format: TableFormat,
    columns: TextColumns,
    vectors: Iterable[NDArray[np.float32]],
    provenance: Mapping[str, Any],
) -> None:
    """Write a table, and the JSON file beside it, whole or not at all.

    Parameters
    ----------
    output : Path
        Table to create or to replace.
    folder : Path
        Where both lie until they are whole, on the same disk.
    table_format : TableFormat
        From `find_format`.
    columns : mapping of str to sequence of str or None
        Columns before the embedding.
    vectors : iterable of ndarray of shape (n_features,)
        The embedding of each row; may be read from the table that is replaced.
    provenance : mapping of str to JSON values
        Where the embeddings come from.
    """
    partial, sidecar = folder / f"table{output.suffix}", folder / "table.json"
    table_format.write(partial, columns, vectors, provenance)
    sidecar.write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    for path in (partial, sidecar):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if _differ(read_json_object(sidecar_path(output)) or {}, provenance):
        # The old table must not meet the new provenance, even for a moment.
        output.unlink(missing_ok=True)
    sidecar.replace(sidecar_path(output))
    partial.replace(output)


def _precisions(provenance: Mapping[str, Any]) -> set[str]:
    if not provenance:  # no rows yet
        return set()
    return set(str(provenance.get("precision", _UNKNOWN)).split(", "))


def _differ(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return any(old.get(name) != new[name] for name in _IDENTITY)


def _brief(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
