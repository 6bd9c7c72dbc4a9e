"""What ``brainfeat report`` does once its options are read."""

__all__ = ["ReportSummary", "report", "report_on_table"]

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from brainfeat._version import __version__
from brainfeat.cli.messages import finish
from brainfeat.cli.options import JobsOption, LabelColumnOption
from brainfeat.exceptions import BrainfeatError, InputError, brief_reason
from brainfeat.io.atomic import atomic_write
from brainfeat.subjects.failures import one_line

if TYPE_CHECKING:
    import pandas as pd

    from brainfeat.embedding.subject_encoder import SubjectEncoder
    from brainfeat.reporting.cohort import Cohort
    from brainfeat.reporting.cohort_report import Inputs


def report(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="Table that embed wrote.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Page to write.  [TABLE's name, .html]"),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="participants.tsv: diagnosis, site, age..."),
    ] = None,
    label_column: LabelColumnOption = None,
    jobs: JobsOption = 1,
) -> None:
    """Write a page about a table: inputs, outliers, scores, regions.

    Images are preprocessed once more to be shown. If some cannot be, the exit
    status is 1.
    """
    summary = report_on_table(
        table,
        output,
        labels=labels,
        label_column=label_column,
        n_jobs=jobs,
        show_progress=True,
    )
    for name, reason in summary.failures:
        typer.echo(f"failed: {one_line(f'{name}: {reason}')}", err=True)
    finish(f"report:   {summary.path}", failed=bool(summary.failures))


class ReportSummary(NamedTuple):
    """What was written.

    Attributes
    ----------
    path : Path
        The page.
    failures : sequence of (str, str)
        Rows whose images could not be shown, and why.
    """

    path: Path
    failures: Sequence[tuple[str, str]]


def report_on_table(
    table: Path,
    output: Path | None = None,
    *,
    labels: Path | None = None,
    label_column: str | None = None,
    n_jobs: int = 1,
    show_progress: bool = False,
) -> ReportSummary:
    """Write a page about an embedding table.

    Parameters
    ----------
    table : Path
        What ``brainfeat embed`` wrote.
    output : Path, optional
        Page to write; by default beside the table, under its name.
    labels : Path, optional
        Table of participants with a column ``participant_id``, or of sessions with
        ``session_id``, too: TSV, or CSV by name.
    label_column : str, optional
        Column of the classes.
    n_jobs : int
        Threads that preprocess the images once more.
    show_progress : bool
        Whether to show how many images are done.

    Returns
    -------
    ReportSummary
        Where the page is.

    Raises
    ------
    InputError
        If the participants do not fit, there is no such column, the output is not
        named as a page, or a page of another program is beside the table.
    TableError
        If the table cannot be read.
    """
    from brainfeat.reporting.cohort import Cohort, join_participants
    from brainfeat.reporting.cohort_report import report_body
    from brainfeat.reporting.page import is_own_page, render_page
    from brainfeat.tables.embedding_table import read_embeddings

    path = output or table.with_suffix(".html")
    if path.suffix.lower() not in {".html", ".htm"}:
        raise InputError(f"{path}: expected a page to write, named *.html.")
    # Nobody named this one: it may be another program's page about the table.
    if output is None and path.exists() and not is_own_page(path):
        raise InputError(f"{path}: exists and is not ours; choose another by --output.")
    metadata, embeddings, provenance = read_embeddings(table)
    known = metadata
    if labels is not None:
        known = join_participants(metadata, _read_participants(labels), str(labels))
    cohort = Cohort.build(
        embeddings,
        _names(metadata),
        metadata["participant_id"].map(str).tolist(),
        known,
        label_column,
    )
    inputs = _look(cohort, metadata, provenance, n_jobs, show_progress)
    title = f"brainfeat report: {table.name}"
    body = report_body(
        title,
        _facts(table, labels, cohort, provenance),
        cohort,
        inputs,
        provenance,
    )
    with atomic_write(path) as partial:
        partial.write_text(render_page(title, body), encoding="utf-8")
    return ReportSummary(path, inputs.failures)


def _read_participants(path: Path) -> "pd.DataFrame":
    import pandas as pd

    separator = "," if path.suffix.lower() == ".csv" else "\t"
    try:
        names = {"participant_id": str, "session_id": str}
        return pd.read_csv(path, sep=separator, dtype=names)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({brief_reason(error)}).") from error


def _names(metadata: "pd.DataFrame") -> list[str]:
    """Name rows by participant, and by session and run where they have some."""
    names = metadata["participant_id"].map(str)
    for column, prefix in (("session_id", " "), ("run", " run-")):
        if column in metadata:
            # Beside a gap, pandas makes 1.0 of run 1.
            labels = metadata[column].map(str).str.removesuffix(".0")
            names = names + (prefix + labels).where(metadata[column].notna(), "")
    return names.tolist()


def _look(
    cohort: "Cohort",
    metadata: "pd.DataFrame",
    provenance: dict[str, Any],
    n_jobs: int,
    show_progress: bool,
) -> "Inputs":
    from brainfeat.reporting.cohort_report import Inputs
    from brainfeat.reporting.report_inputs import look_at_inputs
    from brainfeat.subjects.subject import Subject

    try:
        encoder = _open_encoder(provenance)
    except BrainfeatError as error:
        return Inputs(remarks=[f"Images are not shown: {error}"])
    subjects = [
        Subject(
            name,
            {
                modality: row[modality]
                for modality in encoder.modalities
                if isinstance(row.get(modality), str)
            },
        )
        for name, row in zip(cohort.names, metadata.to_dict("records"), strict=True)
    ]
    return look_at_inputs(
        cohort, subjects, encoder, n_jobs=n_jobs, show_progress=show_progress
    )


def _open_encoder(provenance: dict[str, Any]) -> "SubjectEncoder":
    from brainfeat.checkpoint.checkpoint import Checkpoint
    from brainfeat.embedding.subject_encoder import SubjectEncoder
    from brainfeat.preprocessing.preprocessor import Preprocessor

    # What made the table, or an error that says why it cannot be had.
    if "checkpoint" not in provenance:
        raise InputError("the table does not say which encoder made it.")
    checkpoint = Checkpoint.load(provenance["checkpoint"])
    if checkpoint.fingerprint != provenance["checkpoint_sha256"]:
        raise InputError(
            f"the checkpoint {provenance['checkpoint']} is not the one that made the "
            "table."
        )
    pooling = provenance["pooling"]
    return SubjectEncoder(
        checkpoint,
        preprocessor=Preprocessor.from_dict(provenance["preprocessing"]),
        # The atlas of a table of regions is not in it: tokens are read by the mean.
        # So are those that anatomy was read from, for maps of what counts.
        pooling="mean" if pooling in {"regions", "anatomy"} else pooling,
    )


def _facts(
    table: Path, labels: Path | None, cohort: "Cohort", provenance: dict[str, Any]
) -> list[tuple[str, str]]:
    n_rows, n_features = cohort.embeddings.shape
    n_people = len(set(cohort.participants))
    facts = [
        ("table", f"{os.fspath(table)}: {n_rows} rows of {n_people} people"),
        ("embedding", f"{n_features} numbers a row"),
    ]
    if labels is not None:
        facts.append(("labels", os.fspath(labels)))
    for name, key in (
        ("checkpoint", "checkpoint"),
        ("weights", "checkpoint_sha256"),
        ("pooling", "pooling"),
        ("precision", "precision"),
    ):
        if key in provenance:
            facts.append((name, str(provenance[key])))
    made_by = provenance.get("brainfeat_version", "an unknown version")
    facts.append(("version", f"brainfeat {__version__}, table by {made_by}"))
    return facts
