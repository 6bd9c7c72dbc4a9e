"""Provenance of tables: which may be joined, and the JSON file beside each."""

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brainfeat._version import __version__
from brainfeat.exceptions import TableError
from brainfeat.io.json_files import format_json, read_json_object
from brainfeat.tables.columns import TextColumns
from brainfeat.tables.delimited import read_sidecar, sidecar_path
from brainfeat.tables.formats import TableFormat, find_format

if TYPE_CHECKING:
    from brainfeat.embedding.subject_encoder import SubjectEncoder

__all__ = [
    "check_identity",
    "check_sidecar",
    "describe_encoder",
    "describe_identity",
    "join_precisions",
    "read_origin",
    "remove_table",
    "write_table",
]

_LOGGER = logging.getLogger(__name__)

_UNKNOWN = "unknown"  # precision of rows from before it was recorded

# Rows that differ in one of these cannot share a table.
_IDENTITY = {
    "checkpoint_sha256": "checkpoint",
    "preprocessing_sha256": "preprocessing",
    "pooling": "pooling",
    "modalities": "modalities",
    "n_features": "number of features",
}


def describe_encoder(encoder: "SubjectEncoder", checkpoint: str) -> dict[str, Any]:
    """Return the provenance of an encoder's embeddings, as JSON values.

    ``checkpoint`` is a name that is valid in other folders too.
    """
    # Features of other poolings are numbered.
    is_named = encoder.pooler.reads_anatomy
    origin = encoder.checkpoint.config.origin
    return {
        "brainfeat_version": __version__,
        "checkpoint": checkpoint,
        "checkpoint_sha256": encoder.checkpoint.fingerprint,
        "trained": encoder.checkpoint.config.trained,
        "licence": origin.licence,
        "origin": origin.to_dict(),
        "modalities": list(encoder.modalities),
        "pooling": encoder.pooling,
        "n_features": encoder.n_features,
        "precision": encoder.precision,
        **({"feature_names": list(encoder.feature_names)} if is_named else {}),
        "preprocessing_sha256": encoder.preprocessor.fingerprint,
        "preprocessing": encoder.preprocessor.to_dict(),
    }


def describe_identity(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return what rows must agree on to share a table."""
    return {name: provenance[name] for name in _IDENTITY}


def check_identity(
    old: Mapping[str, Any], new: Mapping[str, Any], path: Path, *, advice: str
) -> None:
    """Raise TableError if new rows may not join those of the table at ``path``."""
    changes = [
        f"another {word} ({_brief(old.get(name))}, now {_brief(new[name])})"
        for name, word in _IDENTITY.items()
        if old.get(name) != new[name]
    ]
    if changes:
        raise TableError(f"{path}: made with {' and '.join(changes)}; {advice}")


def read_origin(path: Path, *, advice: str) -> dict[str, Any]:
    """Read the provenance of a table, TableError if another program dropped it."""
    provenance = find_format(path).read_provenance(path)
    if provenance is None or "checkpoint_sha256" not in provenance:
        raise TableError(f"{path}: does not say which encoder made it; {advice}")
    return provenance


def join_precisions(
    kept: Mapping[str, Any], added: Mapping[str, Any], path: Path
) -> dict[str, str]:
    """Return the entry ``precision`` of two provenances, and warn if they differ."""
    old, new = map(_precisions, (kept, added))
    if old - {_UNKNOWN} and new - old - {_UNKNOWN}:
        _LOGGER.warning(
            "%s: rows of %s join rows of %s; that may look like a difference of sites "
            "(processors with bfloat16 round more; --dtype uses one on all)",
            path,
            ", ".join(sorted(new - old - {_UNKNOWN})),
            ", ".join(sorted(old - {_UNKNOWN})),
        )
    return {"precision": ", ".join(sorted(old | new))} if old | new else {}


def check_sidecar(output: Path) -> None:
    """Raise TableError if the JSON file of a new table belongs to something else."""
    path = sidecar_path(output)
    if path.exists() and "checkpoint_sha256" not in (read_json_object(path) or {}):
        raise TableError(f"{path}: exists and is not ours; choose another output name.")


def write_table(
    output: Path,
    folder: Path,
    table_format: TableFormat,
    columns: TextColumns,
    vectors: Iterable[NDArray[np.float32]],
    provenance: Mapping[str, Any],
    speed: Mapping[str, float] | None = None,
) -> None:
    """Write a table and its JSON file, and then replace the old ones.

    ``speed`` is noted in the JSON file alone: the same rows are the same table.

    New files are written in ``folder``, on the same disk. ``vectors`` may be read
    from the table that is replaced.
    """
    partial, sidecar = folder / f"table{output.suffix}", folder / "table.json"
    table_format.write(partial, columns, vectors, provenance)
    sidecar.write_text(format_json({**provenance, **(speed or {})}), encoding="utf-8")
    for path in (partial, sidecar):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    target = sidecar_path(output)
    old = read_sidecar(output) or {}
    if any(old.get(name) != provenance[name] for name in _IDENTITY):
        # The old table must never lie beside the new provenance.
        output.unlink(missing_ok=True)
    sidecar.replace(target)
    partial.replace(output)


def remove_table(output: Path) -> None:
    """Delete a table and its JSON file."""
    sidecar = sidecar_path(output)
    output.unlink(missing_ok=True)
    sidecar.unlink(missing_ok=True)


def _precisions(provenance: Mapping[str, Any]) -> set[str]:
    if not provenance:  # no rows yet
        return set()
    return set(str(provenance.get("precision", _UNKNOWN)).split(", "))


def _brief(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
