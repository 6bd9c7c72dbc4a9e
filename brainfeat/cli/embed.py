"""The command ``brainfeat embed``, and the options of encoders."""

__all__ = ["EncoderOptions", "embed"]

import glob
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from brainfeat.cli.log import begin_log
from brainfeat.cli.messages import (
    finish,
    format_summary,
    report_missing_modalities,
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
    InputsArgument,
    JobsOption,
    LogFileOption,
    MemoryOption,
    ModalityOption,
    OnlyOption,
    OverwriteOption,
    PoolingOption,
    RequireOption,
    SchedulerOption,
    StopOption,
    StrictOption,
    TableOption,
    VerboseOption,
    check_output,
)
from brainfeat.exceptions import InputError

if TYPE_CHECKING:
    from brainfeat.embedding.clusters import Backend
    from brainfeat.embedding.distribution import Distribution
    from brainfeat.embedding.encoder_spec import EncoderSpec
    from brainfeat.embedding.subject_encoder import Pooling, SubjectEncoder
    from brainfeat.subjects.manifest import Manifest
    from brainfeat.tables.merging import Shard
    from brainfeat.tables.runs import RunOptions, RunSummary


_LOGGER = logging.getLogger(__name__)


def embed(
    inputs: InputsArgument,
    output: TableOption,
    checkpoint: CheckpointOption = "brainfound-tiny",
    modality: ModalityOption = None,
    require: RequireOption = None,
    only: OnlyOption = None,
    pooling: PoolingOption = "mean",
    device: DevicesOption = "auto",
    dtype: DtypeOption = "auto",
    batch_size: BatchOption = "auto",
    jobs: JobsOption = 1,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Cache of embeddings, shared by tables."),
    ] = None,
    bids_filter_file: FilterFileOption = None,
    overwrite: OverwriteOption = False,
    stop_on_first_error: StopOption = False,
    strict: StrictOption = False,
    coregister: CoregisterOption = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Embed part I of N; join them by brainfeat merge."
        ),
    ] = None,
    backend: BackendOption = "threads",
    scheduler: SchedulerOption = None,
    memory_limit: MemoryOption = 4.0,
    previews: Annotated[
        bool,
        typer.Option(
            "--previews/--no-previews",
            help="Keep a small picture of each row in TABLE.previews, for report.",
        ),
    ] = True,
    log_file: LogFileOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Embed scans into a table with a row per subject, or into .npy.

    Run the same command again to resume. Scans that fail are listed in
    OUT.failures.tsv, and the exit status is 1 then.
    """
    from brainfeat.tables.merging import Shard
    from brainfeat.tables.runs import RunOptions

    set_verbosity(verbose)
    summary = _embed_inputs(
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
            coregister=coregister,
        ),
        RunOptions(
            n_jobs=jobs,
            cache=cache,
            overwrite=overwrite,
            stop_on_first_error=stop_on_first_error,
            strict=strict,
            previews=previews,
        ),
        choice=_ModalityChoice(
            modality or (), require or (), only or (), bids_filter_file
        ),
        shard=None if shard is None else Shard.parse(shard),
        log_file=log_file,
    )
    finish(format_summary(summary), failed=bool(summary.failed))


class _ModalityChoice(NamedTuple):
    """Modalities to use, those that a subject must have, and those alone to use."""

    wanted: Sequence[str]
    required: Sequence[str]
    only: Sequence[str]
    filter_file: Path | None = None

    def collect(self, inputs: Sequence[str], modalities: Sequence[str]) -> "Manifest":
        """Collect the rows of the inputs, of an encoder's modalities."""
        from brainfeat.subjects.bids.filter import BidsSelection, read_filters
        from brainfeat.subjects.manifest import collect_rows
        from brainfeat.subjects.modality_choice import (
            choose_modalities,
            parse_modalities,
        )

        required = parse_modalities(self.required, modalities, "--require")
        only = parse_modalities(self.only, modalities, "--only")
        filters = read_filters(self.filter_file, modalities)
        manifest = collect_rows(
            inputs,
            modalities=modalities,
            wanted=self.wanted,
            selection=BidsSelection(filters=filters),
        )
        return choose_modalities(manifest, required=required, only=only)


class EncoderOptions(NamedTuple):
    """Options of the encoder, and of the processes that run it.

    ``device`` may be several with commas between them, a process each; ``memory_limit``
    is in gigabytes per volume.
    """

    checkpoint: str
    pooling: "Pooling"
    device: str
    batch_size: str
    dtype: str = "auto"
    memory_limit: float = 4.0
    backend: "Backend" = "threads"
    scheduler: str | None = None
    coregister: bool = False

    @property
    def device_names(self) -> str:
        """The devices, of which the first is checked."""
        from brainfeat.embedding.clusters import split_devices
        from brainfeat.models.device import resolve_device

        first, *others = split_devices(self.device)
        return ", ".join([str(resolve_device(first)), *others])

    @property
    def spec(self) -> "EncoderSpec":
        """The arguments of the encoder, on the first device here."""
        from brainfeat.embedding.clusters import split_devices
        from brainfeat.embedding.encoder_spec import EncoderSpec

        size = self.batch_size
        return EncoderSpec(
            checkpoint=self.checkpoint,
            coregister=self.coregister,
            pooling=self.pooling,
            device=split_devices(self.device)[0],
            batch_size=int(size) if size.isdecimal() else size,
            dtype=self.dtype,
            memory_limit=int(self.memory_limit * 1e9),
        )

    @contextmanager
    def distribute(
        self, encoder: "SubjectEncoder", n_jobs: int
    ) -> "Iterator[Distribution | None]":
        """Open the processes that embed; None if this process does."""
        from brainfeat.embedding.clusters import open_workers
        from brainfeat.embedding.distribution import Distribution

        with open_workers(self.backend, self.scheduler, self.device, n_jobs) as workers:
            if workers is None:
                yield None
                return
            is_local = self.backend == "threads"
            yield Distribution(
                workers,
                self.spec.for_workers(encoder),
                encoder.device.type,
                max(1, n_jobs // workers.n_workers) if is_local else 1,
            )


def _embed_inputs(
    inputs: Sequence[str],
    output: Path,
    encoder_options: EncoderOptions,
    options: "RunOptions",
    *,
    choice: _ModalityChoice,
    shard: "Shard | None" = None,
    log_file: Path | None = None,
) -> "RunSummary":
    """Embed the inputs, or a shard of them, into a table, and show the progress."""
    from brainfeat.checkpoint.locate import absolute_source
    from brainfeat.tables import runs
    from brainfeat.tables.provenance import describe_encoder
    from brainfeat.tables.vector_file import embed_to_vector

    is_vector = output.suffix == ".npy"
    _check_paths(inputs, output, options, shard=shard)
    begin_log(encoder_options.device_names, log_file)
    encoder = encoder_options.spec.build()
    manifest = choice.collect(inputs, encoder.modalities)
    if is_vector:
        _check_is_one(manifest, output)
    provenance = describe_encoder(encoder, absolute_source(encoder_options.checkpoint))
    if shard is not None:
        provenance |= {"shard": str(shard), "n_listed": len(manifest.rows)}
        manifest = _take(manifest, shard)
    report_problems(manifest)
    report_missing_modalities(manifest, encoder.modalities)
    _LOGGER.debug("%d rows on %s", len(manifest.rows), encoder.device)
    with (
        show_outcomes(
            report_total(manifest), n_failed=len(manifest.problems)
        ) as display,
        encoder_options.distribute(encoder, options.n_jobs) as distribution,
    ):
        if is_vector:
            return embed_to_vector(
                manifest.rows, output, encoder, options=options, on_event=display
            )
        return runs.embed_to_table(
            manifest.rows,
            output,
            encoder,
            provenance=provenance,
            options=options,
            problems=manifest.problems,
            on_event=display,
            distribution=distribution,
        )


def _check_paths(
    inputs: Sequence[str],
    output: Path,
    options: "RunOptions",
    *,
    shard: "Shard | None",
) -> None:
    """Check what the names of output and cache say, before anything is read."""
    from brainfeat.tables.formats import find_format

    if output.suffix != ".npy":
        find_format(output)
    elif shard is not None:
        raise InputError("--shard: expected a table as output, got a .npy file.")
    if options.overwrite and _is_among(inputs, output):
        raise InputError(f"{output}: is an input, too; choose another output name.")
    check_output(output)
    if options.cache is not None:
        check_output(Path(options.cache), is_folder=True)


def _check_is_one(manifest: "Manifest", output: Path) -> None:
    """Check that there is one image, as a .npy file holds one vector."""
    n_images = sum(len(row.images) for row in manifest.rows) + len(manifest.problems)
    if n_images != 1:
        raise InputError(
            f"{output}: expected one image for a .npy file, got {n_images}; write "
            "several to a table (.parquet, .csv or .tsv)."
        )


def _is_among(inputs: Sequence[str], output: Path) -> bool:
    patterns = list(map(os.path.expanduser, inputs))
    matches = (
        glob.glob(text, recursive=True)  # noqa: PTH207  # Path.glob: no absolute ones
        for text in patterns
    )
    return output.exists() and any(
        os.path.exists(name) and output.samefile(name)  # noqa: PTH110  # never raises
        for name in chain(patterns, *matches)
    )


def _take(manifest: "Manifest", shard: "Shard") -> "Manifest":
    from brainfeat.subjects.manifest import Manifest

    first = shard.index == 1
    return Manifest(
        tuple(shard.take(manifest.rows)),
        # Reported once.
        manifest.problems if first else (),
        manifest.duplicates if first else (),
    )
