"""``brainfeat demo``: simulate a cohort, embed it, evaluate a linear probe."""

__all__ = ["demo"]

import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from brainfeat.cli.messages import show_outcomes
from brainfeat.exceptions import InputError
from brainfeat.io.atomic import check_can_write

if TYPE_CHECKING:
    from brainfeat.evaluation import ProbeEvaluation

_CHECKPOINT = "brainfound-tiny"
_N_SUBJECTS = 32
_NOTE = (
    "note: scans and disease are simulated: atrophy of the medial temporal lobes, of "
    "random severity. The score shows that the software works. It says nothing about "
    "patients."
)


def demo(
    output: Annotated[
        Path,
        typer.Argument(
            metavar="OUTPUT", help="Folder to write: cohort, table and report."
        ),
    ] = Path("brainfeat-demo"),
) -> None:
    """Simulate, embed and evaluate a small cohort; no downloads."""
    from brainfeat.models.threads import resolve_n_jobs
    from brainfeat.reporting.table_report import report_on_table
    from brainfeat.simulation.cohort import simulate_cohort

    start = time.perf_counter()
    n_jobs = resolve_n_jobs(-1)
    cohort, table = output / "cohort", output / "embeddings.parquet"
    page = output / "report.html"
    check_can_write(cohort, is_folder=True)
    for path in (table, page):
        # No demo wrote a file that lies beside no cohort.
        if path.exists() and not cohort.exists():
            raise InputError(
                f"{path}: exists, but not the cohort of an earlier demo beside it; "
                "choose another folder."
            )
        check_can_write(path)
    typer.echo(f"simulating {_N_SUBJECTS} subjects in {cohort}", err=True)
    simulate_cohort(cohort, _N_SUBJECTS, labels=False)
    _embed(cohort, table, n_jobs)
    typer.echo("evaluating a linear probe, and writing the report", err=True)
    report = report_on_table(table, page, n_jobs=n_jobs, show_progress=True)
    typer.echo(
        f"\n{_format_scores(report.probe)}\n\n"
        f"{textwrap.fill(_NOTE, 79)}\n\n"
        f"table:    {table}\n"
        f"report:   {page}\n"
        f"cohort:   {cohort}\n"
        f"done in {time.perf_counter() - start:.0f} s"
    )


def _embed(cohort: Path, table: Path, n_jobs: int) -> None:
    from brainfeat.checkpoint.checkpoint import Checkpoint
    from brainfeat.embedding.subject_encoder import SubjectEncoder
    from brainfeat.subjects.manifest import collect_rows
    from brainfeat.tables.provenance import describe_encoder
    from brainfeat.tables.runs import RunOptions, embed_to_table

    encoder = SubjectEncoder(Checkpoint.load(_CHECKPOINT))
    subjects = collect_rows([str(cohort)], modalities=encoder.modalities).rows
    with show_outcomes(len(subjects)) as show:
        summary = embed_to_table(
            subjects,
            table,
            encoder,
            provenance=describe_encoder(encoder, _CHECKPOINT),
            options=RunOptions(n_jobs=n_jobs, overwrite=True, previews=True),
            on_event=show,
        )
    if summary.failed:
        raise InputError(
            f"{summary.failures}: {summary.failed} of {len(subjects)} subjects failed."
        )


def _format_scores(probe: "ProbeEvaluation | None") -> str:
    if probe is None:
        return "The probe was not evaluated; the report says why."
    lines = [
        f"linear probe of the disease, {probe.n_subjects} subjects, cross-validated",
        f"AUC {probe.auc} (standard error), p = {probe.p_value:.3f}; 0.50 is chance",
        f"the AUC is of class {probe.pos_label}, against {probe.classes[0]}",
    ]
    if probe.confound_auc is not None:
        lines.append(f"age, sex and site alone: AUC {probe.confound_auc}")
    return "\n".join(lines)
