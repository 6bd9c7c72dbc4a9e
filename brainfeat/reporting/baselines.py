"""Baselines of a comparison: what an encoder must beat to be worth its weights."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.sharing import shared_checkpoint
from brainfeat.embedding.subject_encoder import SubjectEncoder
from brainfeat.exceptions import InputError
from brainfeat.reporting.table_report import load_encoder
from brainfeat.subjects.subject import Outcome, Subject
from brainfeat.tables.embedding_table import read_embeddings
from brainfeat.tables.provenance import describe_encoder
from brainfeat.tables.runs import RunOptions, RunSummary, embed_to_table

__all__ = ["Baseline", "BaselineTable", "embed_baseline"]

Baseline = Literal["untrained", "volumetry"]

_BUNDLED = "brainfound-tiny"
_SEED = 0


class BaselineTable(NamedTuple):
    """Rows of a baseline, what it is, and how its run ended."""

    metadata: pd.DataFrame
    features: NDArray[np.float32]
    provenance: dict[str, Any]
    summary: RunSummary


def embed_baseline(
    kind: Baseline,
    metadata: pd.DataFrame,
    provenance: dict[str, Any],
    output: Path,
    *,
    n_jobs: int = 1,
    show: Callable[[Outcome[Any]], None] | None = None,
) -> BaselineTable:
    """Embed the images of a table by a baseline into another table, or resume that.

    ``untrained`` is the table's own encoder, with its preprocessing and pooling, but
    random weights. ``volumetry`` is the volume, in ml, of the brain and of each tissue
    and structure that the bundled encoder reads (pooling ``anatomy``).
    """
    if kind == "untrained":
        encoder, name = _untrained(provenance), f"untrained {provenance['checkpoint']}"
    else:
        encoder = SubjectEncoder(shared_checkpoint(_BUNDLED), pooling="anatomy")
        name = _BUNDLED
    subjects = _read_subjects(metadata, encoder.modalities)
    summary = embed_to_table(
        subjects,
        output,
        encoder,
        provenance=describe_encoder(encoder, name),
        options=RunOptions(n_jobs=n_jobs),
        on_event=show,
    )
    if summary.output is None:
        raise InputError(f"{summary.failures}: all images of the baseline failed.")
    rows, features, made_by = read_embeddings(output)
    if kind == "volumetry":
        features = _to_volumes(rows, features)
    return BaselineTable(rows, features, made_by, summary)


def _untrained(provenance: Mapping[str, Any]) -> SubjectEncoder:
    """Return the encoder that made a table, with other, random weights."""
    encoder = load_encoder(dict(provenance))
    checkpoint = encoder.checkpoint
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        fresh = type(checkpoint.build_encoder())(checkpoint.config.encoder)
    return SubjectEncoder(
        Checkpoint(checkpoint.config, fresh.state_dict()),
        preprocessor=encoder.preprocessor,
        pooling=encoder.pooling,
    )


def _read_subjects(
    metadata: pd.DataFrame, modalities: tuple[str, ...]
) -> list[Subject]:
    """Return the subjects of a table, whose images must be where they were."""
    subjects = []
    for row in metadata.to_dict("records"):
        paths = [(m, row.get(m)) for m in modalities]
        images = {m: path for m, path in paths if isinstance(path, str)}
        if not images or not all(map(os.path.exists, images.values())):
            source = next(iter(images.values()), row["participant_id"])
            raise InputError(
                f"{source}: expected an image of {', '.join(modalities)} for the "
                "baseline, got none; embed again where the images are."
            )
        session = row.get("session_id")
        session = session if isinstance(session, str) else None
        # Tells repeats apart where tables are joined.
        run = row.get("run")
        kept = (
            {} if run is None or pd.isna(run) else {"run": f"{run}".removesuffix(".0")}
        )
        subjects.append(Subject(str(row["participant_id"]), images, session, kept))
    return subjects


def _to_volumes(
    rows: pd.DataFrame, fractions: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the volumes of the brain, its tissues and its structures, in ml."""
    brain = rows["qc_brain_ml"].to_numpy(dtype=np.float64)[:, None]
    return np.hstack([brain, brain * fractions]).astype(np.float32)
