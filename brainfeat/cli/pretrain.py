"""The command ``brainfeat pretrain``."""

__all__ = ["pretrain"]

import dataclasses
import json
import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar

import typer

from brainfeat.cli.log import begin_log
from brainfeat.cli.messages import finish
from brainfeat.cli.options import (
    DeviceOption,
    JobsOption,
    LabelColumnOption,
    LogFileOption,
    ModalityOption,
    StepsOption,
)
from brainfeat.exceptions import BrainfeatError, ConfigError, UntrainedCheckpointWarning
from brainfeat.io.paths import expand_home
from brainfeat.subjects.failures import count_failures

if TYPE_CHECKING:
    from brainfeat.models.config import EncoderConfig
    from brainfeat.pretraining.config import PretrainingConfig
    from brainfeat.pretraining.presets import EncoderSize, PresetName
    from brainfeat.pretraining.tracking import Tracker

_INTERRUPTED = 130  # exit status

T = TypeVar("T")


def pretrain(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            help="Images, globs, folders, a manifest, a BIDS folder, or the folder "
            "of a store that another run made.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Folder of the run and its checkpoint.  [required]"
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON file of hyperparameters.")
    ] = None,
    preset: Annotated[
        Literal["small_batch", "large_batch", "large_batch_short", "agreement"] | None,
        typer.Option(help="Hyperparameters that FILE leaves out.  [small_batch]"),
    ] = None,
    size: Annotated[
        Literal["tiny", "small", "base", "large"] | None,
        typer.Option(help="Width and depth of the encoder.  [tiny, or as INIT]"),
    ] = None,
    steps: StepsOption = None,
    init: Annotated[
        str | None, typer.Option(metavar="CHECKPOINT", help="Start from these weights.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run in the folder.")
    ] = False,
    modality: ModalityOption = None,
    device: DeviceOption = "auto",
    jobs: JobsOption = 1,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TSV of two classes to probe with."),
    ] = None,
    label_column: LabelColumnOption = None,
    label_maps: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Label maps, found by the names of their subjects, to learn anatomy.",
        ),
    ] = None,
    label_table: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="TSV of index and name of the labels of LABEL-MAPS."
        ),
    ] = None,
    print_config: Annotated[
        bool,
        typer.Option("--print-config", help="Print all hyperparameters and exit."),
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write OUTPUT/tensorboard too.")
    ] = False,
    log_file: LogFileOption = None,
) -> None:
    """Train an encoder on scans, without labels; also under torchrun.

    Scans are preprocessed once, into the folder OUTPUT/store. If any fail, they are
    listed in OUTPUT/failures.tsv and the exit status is 1.
    """
    if not print_config and (not inputs or output is None):
        raise typer.BadParameter("expected INPUT, and a folder to write with -o.")
    folder = expand_home(output or Path())
    with _output_of_rank_zero(), _naming_the_saved_step(folder):
        settings = _read_settings(
            config, preset, size, steps, init, saved_in=folder if resume else None
        )
        if print_config:
            typer.echo(json.dumps(settings.to_dict(), indent=2))
            return
        _train(
            _Data(inputs or [], modality or [], label_maps, label_table),
            settings,
            folder,
            {"init": init, "resume": resume, "device": device, "n_jobs": jobs},
            labels=(labels, label_column),
            tensorboard=tensorboard,
            log_file=log_file,
        )
    if _is_rank_zero():  # torchrun ends all ranks with the first that fails
        _report(folder, settings.n_steps)


class _Data(NamedTuple):
    """What is trained on."""

    inputs: list[str]
    modalities: list[str]
    label_maps: Path | None
    label_table: Path | None


def _read_settings(
    config: Path | None,
    preset: "PresetName | None",
    size: "EncoderSize | None",
    steps: int | None,
    init: str | None,
    *,
    saved_in: Path | None,
) -> "PretrainingConfig":
    """Read the hyperparameters; of a run in `saved_in`, unless options name others."""
    from brainfeat.pretraining.config import read_config
    from brainfeat.pretraining.run_state import CONFIG_NAME

    encoder = None
    is_default = config is None and preset is None and size is None
    if saved_in is not None and is_default and (saved_in / CONFIG_NAME).is_file():
        config = saved_in / CONFIG_NAME
    elif init is not None:
        encoder = _encoder_of(init)
    return read_config(
        config,
        preset=preset or "small_batch",
        encoder=encoder,
        size=size,
        n_steps=steps,
    )


def _train(
    data: _Data,
    settings: "PretrainingConfig",
    folder: Path,
    options: dict[str, Any],
    *,
    labels: tuple[Path | None, str | None],
    tensorboard: bool,
    log_file: Path | None,
) -> None:
    from brainfeat.pretraining.data import collect_training_data
    from brainfeat.pretraining.probe import read_labels
    from brainfeat.pretraining.run import pretrain as run

    classes = None if labels[0] is None else read_labels(labels[0], labels[1])
    collected = collect_training_data(
        data.inputs,
        modalities=settings.encoder.modalities,
        wanted=data.modalities,
        label_maps=data.label_maps,
        label_table=data.label_table,
    )
    _begin_log(options["device"], log_file)
    with _tracking(settings, folder, tensorboard) as track:
        run(collected, settings, output=folder, labels=classes, track=track, **options)


def _begin_log(device: str, file: Path | None) -> None:
    from brainfeat.models.device import resolve_training_device

    if _is_rank_zero():
        n_ranks = int(os.environ.get("WORLD_SIZE", "1"))
        processes = f" in each of {n_ranks} processes" if n_ranks > 1 else ""
        begin_log(f"{resolve_training_device(device)}{processes}", file)


def _encoder_of(init: str) -> "EncoderConfig":
    from brainfeat.checkpoint.checkpoint import Checkpoint

    with warnings.catch_warnings():
        # The run loads it again, and warns then.
        warnings.simplefilter("ignore", UntrainedCheckpointWarning)
        config = Checkpoint.load(init).config
    try:
        encoder = config.slab_encoder
    except ConfigError as error:
        raise ConfigError(f"{init}: {error}") from error
    # The read-out of anatomy is trained anew, if the data have anatomy targets.
    return dataclasses.replace(encoder, tissues=(), structures=())


@contextmanager
def _output_of_rank_zero() -> Iterator[None]:
    """Silence the other ranks, except for errors, which rank 0 may not have."""
    if _is_rank_zero():
        yield
        return
    logging.getLogger("brainfeat").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except BrainfeatError as error:
            raise BrainfeatError(f"process {os.environ['RANK']}: {error}") from error
        except KeyboardInterrupt as error:  # reaches all ranks; rank 0 reports it
            raise SystemExit(_INTERRUPTED) from error


@contextmanager
def _naming_the_saved_step(folder: Path) -> Iterator[None]:
    """Add to an interrupt from which step the run can be resumed."""
    from brainfeat.pretraining.run_state import saved_step

    try:
        yield
    except KeyboardInterrupt as error:
        step = saved_step(folder)
        advice = (
            f"interrupted: --resume continues from step {step}"
            if step
            else "interrupted before the first checkpoint: the same command starts anew"
        )
        error.args = (f"{advice}; preprocessed scans are kept.",)
        raise


@contextmanager
def _tracking(
    config: "PretrainingConfig", folder: Path, tensorboard: bool
) -> "Iterator[Tracker]":
    """Show progress from rank 0, and write curves if asked for."""
    from brainfeat.pretraining.progress import ProgressTracker, TensorBoardLog
    from brainfeat.pretraining.run_state import saved_step
    from brainfeat.pretraining.tracking import untracked
    from brainfeat.pretraining.trainer import TrainingStep

    if not _is_rank_zero():
        yield untracked
        return
    progress = ProgressTracker(config.log_every)
    if not tensorboard:
        yield progress
        return
    with TensorBoardLog(folder / "tensorboard", saved_step(folder)) as curves:

        def track(
            items: Iterable[T], *, total: int, description: str, n_before: int = 0
        ) -> Iterator[T]:
            for item in progress(
                items, total=total, description=description, n_before=n_before
            ):
                if isinstance(item, TrainingStep):
                    curves.write(item)
                yield item

        yield track


def _report(folder: Path, n_steps: int) -> None:
    """Print what a run did, from the files that it wrote, and set the exit status."""
    from brainfeat.pretraining.run_state import FAILURES_NAME, LOG_NAME

    steps = map(json.loads, (folder / LOG_NAME).read_text().splitlines())
    losses = [step["total"] for step in steps if "total" in step]
    lines = [f"{n_steps} steps done", f"checkpoint: {folder}"]
    if losses:
        lines[0] += f", final loss {losses[-1]:.3f}"
    n_failed = count_failures(folder / FAILURES_NAME)
    if n_failed:
        lines[0] += f", {n_failed} failed"
        lines.append(f"failures:   {folder / FAILURES_NAME}")
    finish("\n".join(lines), failed=(folder / FAILURES_NAME).is_file())


def _is_rank_zero() -> bool:
    """Whether this is rank 0 of torchrun, or the only process."""
    return os.environ.get("RANK", "0") == "0"
