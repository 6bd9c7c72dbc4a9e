"""The report about an embedding table."""

import os
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from brainfeat._version import __version__
from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.embedding.subject_encoder import SubjectEncoder
from brainfeat.evaluation import ProbeEvaluation
from brainfeat.exceptions import InputError, brief_reason
from brainfeat.io.atomic import atomic_write, check_can_write
from brainfeat.io.delimited_rows import check_text
from brainfeat.preprocessing.settings import preprocessing_from_dict
from brainfeat.reporting.cohort import Cohort, join_participants
from brainfeat.reporting.cohort_report import Inputs, cohort_report
from brainfeat.reporting.figure_files import check_can_draw, write_figures
from brainfeat.reporting.kept_inputs import read_inputs
from brainfeat.reporting.page import is_own_page, render_page
from brainfeat.reporting.report_inputs import preprocess_inputs
from brainfeat.subjects.failures import read_failures
from brainfeat.subjects.subject import Subject
from brainfeat.tables.embedding_table import read_embeddings
from brainfeat.tables.previews import PreviewFolder

__all__ = ["TableReport", "load_encoder", "read_participants", "report_on_table"]

# The table does not hold the atlas of its regions, and anatomy has no tokens of its
# own: these are attributed by mean tokens.
_WITHOUT_TOKENS = ("regions", "anatomy", "anatomy_ml")


class TableReport(NamedTuple):
    """The page, rows whose images could not be shown and why, and the probe."""

    path: Path
    failures: list[tuple[str, str]]
    probe: ProbeEvaluation | None


def report_on_table(  # noqa: PLR0913  the options of a command
    table: Path,
    output: Path | None = None,
    *,
    labels: Path | None = None,
    label_column: str | None = None,
    pos_label: str | None = None,
    regions: bool = False,
    figures: Path | None = None,
    command: str | None = None,
    n_jobs: int = 1,
    show_progress: bool = False,
) -> TableReport:
    """Write a page about a table that ``brainfeat embed`` wrote.

    The page lies beside the table by default. ``labels`` is a participants.tsv, or a
    CSV file, whose columns are joined by participant and session. ``pos_label`` is the
    positive class, as for `evaluate_probe`. With ``regions`` all images are encoded
    again, to find which regions of the brain the probe uses. ``figures`` is a
    folder for the figures as SVG and PNG. ``command`` is shown.
    """
    path = output or table.with_suffix(".html")
    if path.suffix.lower() not in {".html", ".htm"}:
        raise InputError(f"{path}: expected a name that ends in .html.")
    # The default name may belong to another program's page about the table.
    if output is None and path.exists() and not is_own_page(path):
        raise InputError(f"{path}: exists and is not ours; choose another by --output.")
    check_can_write(path)  # before work of minutes
    if figures is not None:
        check_can_draw()
        check_can_write(figures, is_folder=True)
    metadata, embeddings, provenance = read_embeddings(table)
    known = metadata
    if labels is not None:
        known = join_participants(metadata, read_participants(labels), str(labels))
    cohort = Cohort.build(
        embeddings,
        _row_names(metadata),
        metadata["participant_id"].map(str).tolist(),
        known,
        label=label_column,
        pos_label=pos_label,
    )
    inputs = _inputs(
        table,
        cohort,
        metadata,
        provenance,
        regions=regions,
        n_jobs=n_jobs,
        show_progress=show_progress,
    )
    inputs = replace(inputs, failed=read_failures(table))
    title = f"brainfeat report: {table.name}"
    facts = _facts(table, labels, cohort, provenance, command)
    body, probe = cohort_report(title, facts, cohort, inputs, provenance)
    with atomic_write(path) as file:
        file.write_text(render_page(title, body), encoding="utf-8")
    if figures is not None:
        write_figures(body, figures)
    return TableReport(path, list(inputs.failures), probe)


def read_participants(path: Path) -> pd.DataFrame:
    """Read participants.tsv, or a CSV file, with names as text."""
    separator = "," if path.suffix.lower() == ".csv" else "\t"
    try:
        check_text(path)
        names = {"participant_id": str, "session_id": str}
        return pd.read_csv(path, sep=separator, dtype=names)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({brief_reason(error)}).") from error


def _row_names(metadata: pd.DataFrame) -> list[str]:
    """Name rows by participant, and by session and run where they have some."""
    names = metadata["participant_id"].map(str)
    for column, prefix in (("session_id", " "), ("run", " run-")):
        if column in metadata:
            # pandas turns run 1 into 1.0 in a column with missing values.
            labels = metadata[column].map(str).str.removesuffix(".0")
            names = names + (prefix + labels).where(metadata[column].notna(), "")
    return names.tolist()


def _inputs(
    table: Path,
    cohort: Cohort,
    metadata: pd.DataFrame,
    provenance: dict[str, Any],
    *,
    regions: bool,
    n_jobs: int,
    show_progress: bool,
) -> Inputs:
    """Read what the run kept of the images, or preprocess them again."""
    modalities = [str(name) for name in provenance.get("modalities", ())]
    subjects = []
    for name, row in zip(cohort.names, metadata.to_dict("records"), strict=True):
        names = [m for m in modalities if isinstance(row.get(m), str)]
        subjects.append(Subject(name, {modality: row[modality] for modality in names}))
    settings: dict[str, Any] = {"n_jobs": n_jobs, "show_progress": show_progress}
    if regions:
        encoder = load_encoder(provenance)
        return preprocess_inputs(cohort, subjects, encoder, **settings)
    hashes = metadata.get("input_sha256", [None] * len(subjects))
    folder = PreviewFolder.beside(table)
    return read_inputs(
        cohort,
        subjects,
        list(hashes),
        folder,
        partial(load_encoder, provenance),
        **settings,
    )


def load_encoder(provenance: dict[str, Any]) -> SubjectEncoder:
    """Load the encoder that made the table, or raise an error that says why not."""
    if "checkpoint" not in provenance:
        raise InputError("the table does not name the encoder that made it.")
    checkpoint = Checkpoint.load(provenance["checkpoint"])
    if checkpoint.fingerprint != provenance["checkpoint_sha256"]:
        name = provenance["checkpoint"]
        raise InputError(f"the checkpoint {name} is not the one that made the table.")
    pooling = provenance["pooling"]
    return SubjectEncoder(
        checkpoint,
        preprocessor=preprocessing_from_dict(provenance["preprocessing"]),
        pooling="mean" if pooling in _WITHOUT_TOKENS else pooling,
    )


def _facts(
    table: Path,
    labels: Path | None,
    cohort: Cohort,
    provenance: dict[str, Any],
    command: str | None,
) -> dict[str, str]:
    n_rows, n_features = cohort.embeddings.shape
    n_subjects = len(set(cohort.participants))
    now = datetime.now().astimezone()
    written = datetime.fromtimestamp(table.stat().st_mtime).astimezone()
    facts = {
        "date": f"{now:%Y-%m-%d %H:%M %Z}; table written {written:%Y-%m-%d %H:%M}",
        **({"command": command} if command else {}),
        "table": f"{os.fspath(table)}: {n_rows} rows of {n_subjects} subjects",
        "embedding": f"{n_features} numbers a row",
    }
    if labels is not None:
        facts["labels"] = os.fspath(labels)
    for key in ("checkpoint", "checkpoint_sha256", "licence", "pooling", "precision"):
        if provenance.get(key):
            name = "weights" if key == "checkpoint_sha256" else key
            facts[name] = str(provenance[key])
    made_by = provenance.get("brainfeat_version", "an unknown version")
    facts["version"] = f"brainfeat {__version__}; the table is from {made_by}"
    return facts
