"""The group level of BIDS derivatives: one table of all sessions and runs."""

import logging
import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from brainfeat.exceptions import InputError
from brainfeat.io.atomic import naming_output
from brainfeat.io.locks import release_folder
from brainfeat.subjects.bids.filter import BidsSelection
from brainfeat.subjects.bids.labels import join_participants, read_sessions
from brainfeat.subjects.subject import is_reserved
from brainfeat.tables.columns import complete_columns
from brainfeat.tables.derivatives import TABLE_NAME, check_apart, lock_working_folder
from brainfeat.tables.formats import find_format
from brainfeat.tables.provenance import (
    check_identity,
    join_precisions,
    read_origin,
    write_table,
)

__all__ = ["write_group_table"]

logger = logging.getLogger(__name__)

_ADVICE = "remove it, and run the level participant again."

Record = dict[str, str | None]


def write_group_table(
    output: str | os.PathLike[str],
    source: str | os.PathLike[str],
    selection: BidsSelection | None = None,
) -> tuple[Path, int]:
    """Join the tables of derivatives with participants.tsv and sessions.tsv.

    ``output`` is the root of the derivatives, ``source`` that of the raw dataset.
    Returns the path of the table and its number of rows.
    """
    root, raw = Path(output).absolute(), Path(source).absolute()
    check_apart(root, raw)
    paths = _find_tables(root, raw, selection or BidsSelection())
    if not paths:
        raise InputError(
            f"{root}: expected embeddings of participants, got none; run the level "
            "participant first."
        )
    records, provenance = _read_records(paths, raw, root)
    names = dict.fromkeys(name for record in records for name in record)
    columns = {name: [record.get(name) for record in records] for name in names}
    target = root / f"group_{TABLE_NAME}"
    working, lock = lock_working_folder(root)
    blocks = (find_format(path).iterate_vectors(path) for path in paths)
    vectors = chain.from_iterable(chain.from_iterable(blocks))
    try:
        with naming_output(target):
            table_format = find_format(target)
            write_table(target, working, table_format, columns, vectors, provenance)
    finally:
        release_folder(working, lock)
    return target, len(records)


def _find_tables(root: Path, raw: Path, selection: BidsSelection) -> list[Path]:
    """Return the tables of all selected participants, and warn of those without one."""
    # The raw data may have been deleted since.
    folders = [
        path for path in [*raw.glob("sub-*"), *root.glob("sub-*")] if path.is_dir()
    ]
    selected = {path.name for path in selection.take_participants(raw, folders)}
    tables, without = [], set(selected)
    for path in sorted(root.glob(f"sub-*/**/*_{TABLE_NAME}")):
        # By folder: labels may contain underscores, against the rules of BIDS.
        participant, folder = path.relative_to(root).parts[:2]
        session = folder if folder.startswith("ses-") else None
        if participant in selected and selection.has_session(session):
            tables.append(path)
            without.discard(participant)
    if tables and without:
        text = "%s: no embedding of %d of %d participants, such as %s."
        logger.warning(text, root, len(without), len(selected), min(without))
    return tables


def _read_records(
    paths: Sequence[Path], raw: Path, root: Path
) -> tuple[list[Record], dict[str, Any]]:
    """Return the columns before the features of each row, and the provenance of all."""
    names = {path.relative_to(root).parts[0] for path in paths}
    names |= {path.name for path in raw.glob("sub-*") if path.is_dir()}
    participants = join_participants(raw, sorted(names))
    provenance = read_origin(paths[0], advice=_ADVICE)
    records = []
    for path in paths:
        origin = read_origin(path, advice=_ADVICE)
        check_identity(origin, provenance, path, advice=_ADVICE)
        provenance |= join_precisions(provenance, origin, path)
        texts = find_format(path).read_texts(path)
        columns = complete_columns(texts, provenance["modalities"])
        record = {name: values[0] for name, values in columns.items()}
        sessions = read_sessions(raw / str(record["participant_id"]))
        metadata = {
            **participants.get(str(record["participant_id"]), {}),
            **sessions.get(str(record["session_id"]), {}),
        }
        for name, value in metadata.items():
            if name != "run" and not is_reserved(name, provenance["modalities"]):
                record[name] = value
        records.append(record)
    return records, provenance
