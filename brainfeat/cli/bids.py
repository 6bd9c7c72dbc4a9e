"""The command ``brainfeat bids``, a BIDS app."""

__all__ = ["run_bids"]

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from brainfeat.cli.embed import EncoderOptions
from brainfeat.cli.log import begin_log
from brainfeat.cli.messages import (
    finish,
    format_summary,
    report_problems,
    report_total,
    set_verbosity,
    show_outcomes,
)
from brainfeat.cli.options import (
    BackendOption,
    BatchOption,
    CheckpointOption,
    CoregisterOption,
    DevicesOption,
    DtypeOption,
    FilterFileOption,
    JobsOption,
    LogFileOption,
    MemoryOption,
    ModalityOption,
    ParticipantLabelOption,
    PoolingOption,
    SchedulerOption,
    SessionLabelOption,
    StopOption,
    StrictOption,
    VerboseOption,
    check_output,
)
from brainfeat.subjects.bids.filter import BidsSelection, read_filters

if TYPE_CHECKING:
    from brainfeat.tables.runs import RunOptions, RunSummary


def run_bids(
    bids_dir: Annotated[
        Path, typer.Argument(metavar="BIDS_DIR", help="BIDS dataset; only read.")
    ],
    output_dir: Annotated[
        Path, typer.Argument(metavar="OUTPUT_DIR", help="Folder of derivatives.")
    ],
    level: Annotated[
        Literal["participant", "group"],
        typer.Argument(
            metavar="LEVEL",
            help="participant: embed each session; group: join them in one table.",
        ),
    ],
    participant_label: ParticipantLabelOption = None,
    session_label: SessionLabelOption = None,
    bids_filter_file: FilterFileOption = None,
    work_dir: Annotated[
        Path | None,
        typer.Option("-w", "--work-dir", help="Keep embeddings here between runs."),
    ] = None,
    checkpoint: CheckpointOption = "brainfound-tiny",
    modality: ModalityOption = None,
    pooling: PoolingOption = "mean",
    device: DevicesOption = "auto",
    dtype: DtypeOption = "auto",
    batch_size: BatchOption = "auto",
    jobs: JobsOption = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Embed all sessions again.")
    ] = False,
    stop_on_first_error: StopOption = False,
    strict: StrictOption = False,
    coregister: CoregisterOption = False,
    backend: BackendOption = "threads",
    scheduler: SchedulerOption = None,
    memory_limit: MemoryOption = 4.0,
    log_file: LogFileOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Embed a BIDS dataset into derivatives, as a BIDS app.

    Run the same command again to resume. Sessions that fail are listed in
    OUTPUT_DIR/participant.failures.tsv, and the exit status is 1 then.
    """
    set_verbosity(verbose)
    selection = BidsSelection(
        participants=tuple(participant_label or ()), sessions=tuple(session_label or ())
    )
    if level == "group":
        _join_sessions(bids_dir, output_dir, selection, log_file)
        return

    from brainfeat.tables.runs import RunOptions

    summary = _embed_participants(
        bids_dir,
        output_dir,
        EncoderOptions(
            checkpoint=checkpoint,
            pooling=pooling,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            memory_limit=memory_limit,
            backend=backend,
            scheduler=scheduler,
            coregister=coregister,
        ),
        RunOptions(
            n_jobs=jobs,
            cache=work_dir,
            overwrite=overwrite,
            stop_on_first_error=stop_on_first_error,
            strict=strict,
        ),
        selection=selection,
        filter_file=bids_filter_file,
        modalities=tuple(modality or ()),
        log_file=log_file,
    )
    finish(format_summary(summary), failed=bool(summary.failed))


def _join_sessions(
    source: Path, output: Path, selection: BidsSelection, log_file: Path | None
) -> None:
    from brainfeat.tables.group_table import write_group_table

    begin_log("none", log_file)
    path, n_rows = write_group_table(output, source, selection)
    finish(f"{n_rows} rows\ntable:    {path}", failed=False)


def _embed_participants(
    source: Path,
    output: Path,
    encoder_options: "EncoderOptions",
    options: "RunOptions",
    *,
    selection: BidsSelection,
    filter_file: Path | None = None,
    modalities: tuple[str, ...] = (),
    log_file: Path | None = None,
) -> "RunSummary":
    """Embed a BIDS dataset into a folder of derivatives, and show the progress."""
    from brainfeat.checkpoint.locate import absolute_source
    from brainfeat.subjects.manifest import collect_bids
    from brainfeat.tables import runs
    from brainfeat.tables.derivatives import DerivativesFolder
    from brainfeat.tables.provenance import describe_encoder

    check_output(output, is_folder=True)
    if options.cache is not None:
        check_output(Path(options.cache), is_folder=True)
    begin_log(encoder_options.device_names, log_file)
    encoder = encoder_options.spec.build()
    filters = read_filters(filter_file, encoder.modalities)
    selection = replace(selection, filters=filters)
    manifest = collect_bids(
        source, selection, modalities=encoder.modalities, wanted=modalities
    )
    provenance = describe_encoder(encoder, absolute_source(encoder_options.checkpoint))
    with DerivativesFolder(
        output, source, provenance, overwrite=options.overwrite
    ) as folder:
        report_problems(manifest)
        with (
            show_outcomes(
                report_total(manifest),
                n_failed=len(manifest.problems),
                if_skipped="embedded already",
                resumes=not options.overwrite,
            ) as display,
            encoder_options.distribute(encoder, options.n_jobs) as distribution,
        ):
            summary = runs.embed_rows(
                manifest.rows,
                folder,
                encoder,
                options=options,
                problems=manifest.problems,
                on_event=display,
                distribution=distribution,
            )
    return summary._replace(output=output)
