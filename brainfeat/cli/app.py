"""The command line; heavy libraries are imported inside the commands."""

import errno
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperGroup

from brainfeat._version import __version__
from brainfeat.cli.label_options import CommandOfManyLabels
from brainfeat.exceptions import BrainfeatError, InputError

__all__ = ["app", "main"]

_FAILED, _USAGE, _INTERRUPTED, _TERMINATED = 1, 2, 130, 143


class _TerminatedError(KeyboardInterrupt):
    """The system asked the process to end."""


class _Commands(TyperGroup):
    """Commands whose errors are one line, and never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        from brainfeat.cli.console import own_messages_only

        try:
            with own_messages_only():
                return super().invoke(ctx)
        except BrainfeatError as error:
            _fail(str(error), _USAGE)
        except KeyboardInterrupt as error:
            terminated = isinstance(error, _TerminatedError)
            status = _TERMINATED if terminated else _INTERRUPTED
            _fail(str(error) or "interrupted.", status)
        except OSError as error:
            if error.errno == errno.EPIPE:  # as in "brainfeat info | head -1"
                raise
            reason = error.strerror or str(error)
            if error.filename:
                reason = f"{error.filename}: cannot be read or written ({reason})."
            _fail(reason, _USAGE)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_segment = typer.Typer(no_args_is_help=True, help="Learn label maps, and draw them.")
app.add_typer(_segment, name="segment")

_InputsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT",
        help="Images, globs, folders, a CSV or TSV manifest, or a BIDS folder.",
    ),
]
_TableOption = Annotated[
    Path, typer.Option("-o", "--output", help="Table: .parquet, .csv or .tsv.")
]
_CheckpointOption = Annotated[
    str,
    typer.Option(
        "--checkpoint",
        help="Bundled name, checkpoint folder, DINOv2 weights, or hf-hub:org/name.",
    ),
]
_DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
_DevicesOption = Annotated[
    str,
    typer.Option(help="auto, cpu, cuda:1, ...; several with commas: a process each."),
]
_DtypeOption = Annotated[
    Literal["auto", "float32", "bfloat16"],
    typer.Option(help="Precision; name one if several kinds of machines take part."),
]
_JobsOption = Annotated[
    int, typer.Option(metavar="N", help="Scans to preprocess at once; -1: one a core.")
]
_PoolingOption = Annotated[
    Literal["mean", "cls", "cls+mean", "anatomy"],
    typer.Option(help="Tokens to one vector; anatomy: the share of each tissue."),
]
_BatchOption = Annotated[
    str, typer.Option(metavar="N", help="Subjects that share a batch, or auto.")
]
_StopOption = Annotated[
    bool, typer.Option("--stop-on-first-error", help="End at the first bad scan.")
]
_LayoutOption = Annotated[
    Literal["wide", "list"],
    typer.Option(help="Parquet: a column a feature, or one column of lists."),
]
_OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace a table that is there.")
]
_BackendOption = Annotated[
    Literal["threads", "dask", "ray"],
    typer.Option(help="threads: this process; dask, ray: a cluster's workers."),
]
_SchedulerOption = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="The cluster; none: start one here."),
]
_MemoryOption = Annotated[
    float,
    typer.Option(
        metavar="GB", min=0.001, max=1e6, help="Refuse scans that need more memory."
    ),
]
_VerboseOption = Annotated[
    bool, typer.Option("-v", "--verbose", help="Tell more, tracebacks included.")
]
_ModalityOption = Annotated[
    list[str] | None,
    typer.Option(
        "--modality",
        metavar="SUFFIX",
        help="BIDS suffix such as T1w; repeat for several.",
    ),
]
_LabelColumnOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Column of the classes.")
]


@app.callback()
def _start(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=lambda wanted: _show_version(wanted),
            is_eager=True,
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    """Turn brain MRI into features."""


@app.command()
def embed(
    inputs: _InputsArgument,
    output: _TableOption,
    checkpoint: _CheckpointOption = "brainfound-tiny",
    modality: _ModalityOption = None,
    pooling: _PoolingOption = "mean",
    device: _DevicesOption = "auto",
    dtype: _DtypeOption = "auto",
    batch_size: _BatchOption = "auto",
    jobs: _JobsOption = 1,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep embeddings, whatever their table."),
    ] = None,
    overwrite: _OverwriteOption = False,
    stop_on_first_error: _StopOption = False,
    layout: _LayoutOption = "wide",
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Part I (from 1) of N; see brainfeat merge."),
    ] = None,
    backend: _BackendOption = "threads",
    scheduler: _SchedulerOption = None,
    memory_limit: _MemoryOption = 4.0,
    verbose: _VerboseOption = False,
) -> None:
    """Embed scans into a table with one row a subject.

    The same command again resumes. Scans that fail are listed in
    OUT.failures.tsv, and the exit status is 1 then.
    """
    from brainfeat.cli.console import format_summary
    from brainfeat.cli.embed import EncoderOptions, embed_from_command_line
    from brainfeat.tables.runs import RunOptions
    from brainfeat.tables.shards import Shard

    _set_verbosity(verbose)
    summary = embed_from_command_line(
        inputs,
        output,
        EncoderOptions(
            checkpoint=checkpoint,
            pooling=pooling,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            memory_limit=memory_limit,
            backend=backend,
            scheduler=scheduler,
        ),
        RunOptions(
            n_jobs=_count_workers(jobs),
            cache=cache,
            overwrite=overwrite,
            stop_on_first_error=stop_on_first_error,
            layout=layout,
        ),
        modalities=modality or (),
        shard=None if shard is None else Shard.parse(shard),
    )
    typer.echo(format_summary(summary))
    _exit_if(bool(summary.failed))


@app.command("bids", cls=CommandOfManyLabels)
def run_bids(
    bids_dir: Annotated[Path, typer.Argument(help="BIDS dataset; only read.")],
    output_dir: Annotated[Path, typer.Argument(help="Folder of derivatives.")],
    level: Annotated[
        Literal["participant", "group"],
        typer.Argument(help="Embed each session, or gather them in one table."),
    ],
    participant_label: Annotated[
        list[str] | None,
        typer.Option(
            "--participant-label",
            "--participant_label",
            metavar="LABEL...",
            help="Only these, with or without sub-.",
        ),
    ] = None,
    session_label: Annotated[
        list[str] | None,
        typer.Option(
            "--session-label",
            "--session_label",
            metavar="LABEL...",
            help="Only these, with or without ses-.",
        ),
    ] = None,
    bids_filter_file: Annotated[
        Path | None,
        typer.Option(
            "--bids-filter-file",
            metavar="FILE",
            help='JSON that chooses images: {"T1w": {"acquisition": "mprage"}}.',
        ),
    ] = None,
    work_dir: Annotated[
        Path | None,
        typer.Option("-w", "--work-dir", help="Keep embeddings here between runs."),
    ] = None,
    checkpoint: _CheckpointOption = "brainfound-tiny",
    modality: _ModalityOption = None,
    pooling: _PoolingOption = "mean",
    device: _DevicesOption = "auto",
    dtype: _DtypeOption = "auto",
    batch_size: _BatchOption = "auto",
    jobs: _JobsOption = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Embed again what is there.")
    ] = False,
    stop_on_first_error: _StopOption = False,
    backend: _BackendOption = "threads",
    scheduler: _SchedulerOption = None,
    memory_limit: _MemoryOption = 4.0,
    verbose: _VerboseOption = False,
) -> None:
    """Embed a BIDS dataset into derivatives, as a BIDS app.

    The same command again resumes. Sessions that fail are listed in
    OUTPUT_DIR/participant.failures.tsv, and the exit status is 1 then.
    """
    from brainfeat.subjects.bids.filter import BidsSelection
    from brainfeat.tables.derivatives import write_group_table

    _set_verbosity(verbose)
    selection = BidsSelection(
        participants=tuple(participant_label or ()),
        sessions=tuple(session_label or ()),
    )
    if level == "group":
        path, n_rows = write_group_table(output_dir, bids_dir, selection)
        typer.echo(f"{n_rows} rows\ntable:    {path}")
        return

    from brainfeat.cli.bids import embed_participants
    from brainfeat.cli.console import format_summary
    from brainfeat.cli.embed import EncoderOptions
    from brainfeat.tables.runs import RunOptions

    summary = embed_participants(
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
        ),
        RunOptions(
            n_jobs=_count_workers(jobs),
            cache=work_dir,
            overwrite=overwrite,
            stop_on_first_error=stop_on_first_error,
        ),
        selection=selection,
        filter_file=bids_filter_file,
        modalities=tuple(modality or ()),
    )
    typer.echo(format_summary(summary))
    _exit_if(bool(summary.failed))


@app.command()
def merge(
    tables: Annotated[
        list[Path],
        typer.Argument(metavar="TABLE", help="Tables of brainfeat embed --shard."),
    ],
    output: _TableOption,
    layout: _LayoutOption = "wide",
    overwrite: _OverwriteOption = False,
) -> None:
    """Join the tables of shards into the table of the whole.

    The exit status is 1 if some subjects failed in their shards, or a shard has no
    table.
    """
    from brainfeat.cli.merge import (
        format_absent,
        format_merge,
        merge_from_command_line,
    )

    summary = merge_from_command_line(
        tables, output, overwrite=overwrite, layout=layout
    )
    if summary.absent:
        typer.echo(format_absent(summary.absent), err=True)
    typer.echo(format_merge(summary, output))
    _exit_if(bool(summary.n_failed or summary.absent))


@app.command()
def pretrain(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Images, globs, folders, a manifest, a BIDS folder, or the folder "
            "of a store that another run made.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="Folder of the run and its checkpoint."),
    ],
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON file of hyperparameters."),
    ] = None,
    preset: Annotated[
        Literal["small_batch", "large_batch"] | None,
        typer.Option(help="Hyperparameters that FILE leaves out.  [small_batch]"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Steps of the run.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(metavar="CHECKPOINT", help="Start from these weights."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder.")
    ] = False,
    modality: _ModalityOption = None,
    device: _DeviceOption = "auto",
    jobs: _JobsOption = 1,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TSV of two classes to probe with."),
    ] = None,
    label_column: _LabelColumnOption = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write OUTPUT/tensorboard too.")
    ] = False,
) -> None:
    """Train an encoder on scans, without labels; also under torchrun.

    Scans are preprocessed once, into the folder OUTPUT/store. Those that fail are
    listed in OUTPUT/failures.tsv, and the exit status is 1 then.
    """
    from brainfeat.cli.pretrain import is_first_process, pretrain_from_command_line
    from brainfeat.cli.training_display import format_training
    from brainfeat.pretraining.labels import read_labels
    from brainfeat.pretraining.run import TrainingOptions

    options = TrainingOptions(
        modalities=tuple(modality or ()),
        init=init,
        resume=resume,
        device=device,
        n_jobs=_count_workers(jobs),
        labels=None if labels is None else read_labels(labels, label_column),
    )
    summary = pretrain_from_command_line(
        inputs,
        output,
        options,
        config=config,
        preset=preset,
        n_steps=steps,
        tensorboard=tensorboard,
    )
    if is_first_process():
        typer.echo(format_training(summary))
    _exit_if(bool(summary.failed))


@_segment.command("fit")
def segment_fit(
    manifest: Annotated[
        Path,
        typer.Argument(
            help="CSV or TSV table: a row a subject, columns of modalities and `label`."
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the model.")
    ],
    checkpoint: _CheckpointOption = "brainfound-tiny",
    modality: _ModalityOption = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Steps of the training.")
    ] = None,
    fine_tune: Annotated[
        bool, typer.Option("--fine-tune", help="Train the encoder, too.")
    ] = False,
    seed: Annotated[int, typer.Option(help="The same seed, the same model.")] = 0,
    device: _DeviceOption = "auto",
    jobs: _JobsOption = 1,
) -> None:
    """Train on scans that have label maps.

    All scans and label maps are checked before the training starts.
    """
    from brainfeat.checkpoint.sharing import shared_checkpoint
    from brainfeat.cli.segment import fit_from_manifest
    from brainfeat.segmentation.estimator import SegmentationEstimator

    _check_is_free(output)
    estimator = SegmentationEstimator(
        checkpoint,
        freeze_encoder=not fine_tune,
        device=device,
        random_state=seed,
        n_jobs=_count_workers(jobs),
        verbose=1,
    )
    if steps is not None:
        estimator.set_params(n_steps=steps)
    known = shared_checkpoint(checkpoint).config.encoder.modalities
    fit_from_manifest(
        manifest, output, estimator, modalities=known, wanted=modality or ()
    )
    typer.echo(f"classes: {', '.join(map(str, estimator.classes_))}")
    if estimator.validation_scores_:
        best = max(estimator.validation_scores_)
        typer.echo(f"dice:    {best:.2f}, of subjects that were held out")
    typer.echo(f"model:   {output}")


@_segment.command("predict")
def segment_predict(
    model: Annotated[Path, typer.Argument(help="Folder that `segment fit` wrote.")],
    inputs: _InputsArgument,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the label maps.")
    ],
    modality: _ModalityOption = None,
    device: _DeviceOption = "auto",
) -> None:
    """Draw label maps, each in its scan's own space.

    The same command again resumes. Scans that fail are listed in
    OUTPUT/failures.tsv, and the exit status is 1 then.
    """
    from brainfeat.cli.console import tell_problems
    from brainfeat.cli.segment import segment_rows
    from brainfeat.segmentation.estimator import SegmentationEstimator
    from brainfeat.subjects.manifest import collect_rows

    _check_is_no_input(output, inputs)
    estimator = SegmentationEstimator.load(model).set_params(device=device)
    manifest = collect_rows(
        inputs, modalities=estimator.modalities_, wanted=modality or ()
    )
    tell_problems(manifest)
    _exit_if(segment_rows(manifest, model, output, estimator))


@app.command()
def simulate(
    output: Annotated[Path, typer.Argument(help="BIDS folder to write.")],
    n_subjects: Annotated[
        int,
        typer.Option(
            "-n", "--n-subjects", metavar="N", min=1, help="Number of subjects."
        ),
    ] = 60,
    modality: _ModalityOption = None,
    seed: Annotated[int, typer.Option(help="The same seed, the same cohort.")] = 0,
) -> None:
    """Simulate a cohort with a known disease, as a BIDS folder."""
    from brainfeat.simulation.cohort import simulate_cohort

    participants = simulate_cohort(
        output,
        n_subjects,
        modalities=tuple(modality or ["T1w"]),
        random_state=seed,
    )
    typer.echo(f"{len(participants)} subjects\nfolder:   {output}")


@app.command()
def demo(
    output: Annotated[
        Path, typer.Argument(help="Folder to write: cohort, table and report.")
    ] = Path("brainfeat-demo"),
) -> None:
    """Simulate a cohort, embed and classify it; no downloads."""
    from brainfeat.cli.console import RunDisplay
    from brainfeat.reporting.demo import format_demo, run_demo

    result = run_demo(
        output,
        n_jobs=_count_workers(-1),
        tell=lambda line: typer.echo(line, err=True),
        display=RunDisplay,
    )
    typer.echo(format_demo(result))


@app.command()
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
    label_column: _LabelColumnOption = None,
    jobs: _JobsOption = 1,
) -> None:
    """Write a page about a table: inputs, outliers, scores, regions.

    Images are preprocessed once more to be shown. If some cannot be, the exit
    status is 1.
    """
    from brainfeat.cli.console import count_rows
    from brainfeat.cli.report import report_on_table
    from brainfeat.subjects.failures import one_line

    with count_rows("preprocessing") as on_row:
        summary = report_on_table(
            table,
            output,
            labels=labels,
            label_column=label_column,
            n_jobs=_count_workers(jobs),
            on_row=on_row,
        )
    for name, reason in summary.failures:
        typer.echo(f"failed: {one_line(f'{name}: {reason}')}", err=True)
    typer.echo(f"report:   {summary.path}")
    _exit_if(bool(summary.failures))


@app.command()
def info(
    checkpoint: Annotated[
        str, typer.Argument(help="Bundled name, folder, weights, or hf-hub:org/name.")
    ],
) -> None:
    """Describe a checkpoint."""
    import warnings

    from brainfeat.checkpoint.checkpoint import Checkpoint
    from brainfeat.cli.console import format_checkpoint
    from brainfeat.exceptions import UntrainedCheckpointWarning

    # The summary says it too.
    warnings.simplefilter("ignore", UntrainedCheckpointWarning)
    typer.echo(format_checkpoint(Checkpoint.load(checkpoint)))


@app.command()
def convert(
    foreign: Annotated[
        str,
        typer.Argument(help="DINOv2 weights of Meta, transformers or timm."),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Checkpoint folder to write.")
    ],
) -> None:
    """Convert DINOv2 weights to a checkpoint folder."""
    from brainfeat.checkpoint.checkpoint import Checkpoint

    _check_is_free(output)
    folder = Checkpoint.load(foreign).save(output)
    typer.echo(f"checkpoint: {folder}")


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, _terminate)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        # None where it is closed, as some schedulers start their jobs.
        sys.stderr = sys.stderr or nowhere
        app(prog_name="brainfeat")


def _exit_if(failed: bool) -> None:
    if failed:
        raise typer.Exit(_FAILED)


def _count_workers(jobs: int) -> int:
    from brainfeat.models.device import resolve_n_jobs

    if jobs == 0:
        raise typer.BadParameter("expected a number but 0.", param_hint="--jobs")
    return resolve_n_jobs(jobs)


def _check_is_free(folder: Path) -> None:
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(f"{folder}: exists and is not an empty folder.")


def _check_is_no_input(folder: Path, inputs: list[str]) -> None:
    # Scans with label maps among them would be taken for a BIDS folder the next time.
    if folder.resolve() in {Path(text).resolve() for text in inputs}:
        raise InputError(f"{folder}: is an input, too; choose another folder.")


def _set_verbosity(verbose: bool) -> None:
    if verbose:
        logging.getLogger("brainfeat").setLevel(logging.DEBUG)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"brainfeat {__version__}")
        raise typer.Exit


def _terminate(_number: int, _frame: object) -> None:
    raise _TerminatedError


def _fail(message: str, status: int) -> NoReturn:
    from brainfeat.subjects.failures import one_line

    typer.echo(f"error: {one_line(message)}", err=True)
    raise typer.Exit(status)
