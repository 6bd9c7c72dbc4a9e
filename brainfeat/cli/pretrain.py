"""What ``brainfeat pretrain`` does once its options are read."""

__all__ = ["is_first_process", "pretrain", "pretrain_from_command_line"]

import dataclasses
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from brainfeat.cli.messages import finish
from brainfeat.cli.options import (
    DeviceOption,
    JobsOption,
    LabelColumnOption,
    ModalityOption,
    StepsOption,
)
from brainfeat.exceptions import BrainfeatError, UntrainedCheckpointWarning
from brainfeat.io.paths import expand_home
from brainfeat.models.config import EncoderConfig

if TYPE_CHECKING:
    from brainfeat.pretraining.config import PresetName, PretrainingConfig
    from brainfeat.pretraining.run import EventHandler, TrainingOptions, TrainingSummary
    from brainfeat.pretraining.store_writer import ScanEvent
    from brainfeat.pretraining.trainer import StepEvent


_INTERRUPTED = 130  # the exit status


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
    steps: StepsOption = None,
    init: Annotated[
        str | None,
        typer.Option(metavar="CHECKPOINT", help="Start from these weights."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder.")
    ] = False,
    modality: ModalityOption = None,
    device: DeviceOption = "auto",
    jobs: JobsOption = 1,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TSV of two classes to probe with."),
    ] = None,
    label_column: LabelColumnOption = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write OUTPUT/tensorboard too.")
    ] = False,
) -> None:
    """Train an encoder on scans, without labels; also under torchrun.

    Scans are preprocessed once, into the folder OUTPUT/store. Those that fail are
    listed in OUTPUT/failures.tsv, and the exit status is 1 then.
    """
    from brainfeat.cli.training_display import format_training
    from brainfeat.pretraining.labels import read_labels
    from brainfeat.pretraining.run import TrainingOptions

    options = TrainingOptions(
        modalities=tuple(modality or ()),
        init=init,
        resume=resume,
        device=device,
        n_jobs=jobs,
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
    text = format_training(summary) if is_first_process() else ""
    finish(text, failed=bool(summary.failed))


def pretrain_from_command_line(
    inputs: Sequence[str],
    folder: Path,
    options: "TrainingOptions",
    *,
    config: Path | None,
    preset: "PresetName | None",
    n_steps: int | None,
    tensorboard: bool = False,
) -> "TrainingSummary":
    """Train, and show how it goes.

    Parameters
    ----------
    inputs : sequence of str
        Images, globs, folders, manifests, BIDS folders, or the folder of a store.
    folder : Path
        Folder of the run.
    options : TrainingOptions
        How the run begins and goes.
    config : Path, optional
        JSON file of hyperparameters.
    preset : {"small_batch", "large_batch"}, optional
        Hyperparameters that the file does not have.
    n_steps : int, optional
        Steps of the run.
    tensorboard : bool
        Whether to write curves to the folder ``tensorboard`` of the run.

    Returns
    -------
    TrainingSummary
        What became of the run.

    Raises
    ------
    KeyboardInterrupt
        If the user or the system ends the run; it says how to go on.
    """
    from brainfeat.pretraining.run import run_pretraining
    from brainfeat.pretraining.run_checks import saved_step

    folder = expand_home(folder)
    with _said_once():
        values = _read_hyperparameters(config, preset, n_steps, folder, options)
        try:
            with _handler(values, folder, tensorboard) as on_event:
                return run_pretraining(
                    inputs, values, folder, options=options, on_event=on_event
                )
        except KeyboardInterrupt as error:
            step = saved_step(folder)
            way = (
                f"interrupted: --resume goes on from step {step}"
                if step
                else "interrupted before the first checkpoint: "
                "the same command begins anew"
            )
            error.args = (f"{way}, and finds the scans that are preprocessed.",)
            raise


def is_first_process() -> bool:
    """Tell whether this is the process that speaks, of those torchrun started.

    Returns
    -------
    bool
        True for the first one, and without torchrun.
    """
    return os.environ.get("RANK", "0") == "0"


def _read_hyperparameters(
    config: Path | None,
    preset: "PresetName | None",
    n_steps: int | None,
    folder: Path,
    options: "TrainingOptions",
) -> "PretrainingConfig":
    from brainfeat.pretraining.config_file import read_config
    from brainfeat.pretraining.run_checks import CONFIG_NAME

    begun = folder / CONFIG_NAME
    is_silent = config is None and preset is None and n_steps is None
    if options.resume and is_silent and begun.is_file():
        return read_config(begun)
    return read_config(
        config,
        preset=preset or "small_batch",
        encoder=_encoder_of(options.init),
        n_steps=n_steps,
    )


def _encoder_of(init: str | os.PathLike[str] | None) -> EncoderConfig | None:
    from brainfeat.checkpoint.checkpoint import Checkpoint

    if init is None:
        return None
    with warnings.catch_warnings():
        # The run loads it again, and warns then.
        warnings.simplefilter("ignore", UntrainedCheckpointWarning)
        encoder = Checkpoint.load(init).config.encoder
    # What it reads from tokens is learnt anew, if the data know any anatomy.
    return dataclasses.replace(encoder, tissues=())


@contextmanager
def _said_once() -> Iterator[None]:
    """Let the first process alone say what all of them know.

    Raises
    ------
    BrainfeatError
        In the others, with the number of the process: the first one may have none.
    SystemExit
        In the others, in place of an interrupt, which reaches all of them.
    """
    if is_first_process():
        yield
        return
    logging.getLogger("brainfeat").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except BrainfeatError as error:
            raise BrainfeatError(f"process {os.environ['RANK']}: {error}") from error
        except KeyboardInterrupt as error:
            raise SystemExit(_INTERRUPTED) from error


@contextmanager
def _handler(
    config: "PretrainingConfig", folder: Path, tensorboard: bool
) -> "Iterator[EventHandler]":
    """Give what is told of each scan and step."""
    from brainfeat.cli.training_display import TrainingDisplay
    from brainfeat.pretraining.run_checks import saved_step
    from brainfeat.pretraining.tensorboard_log import TensorBoardLog

    handlers: list[EventHandler] = []
    with ExitStack() as stack:
        if is_first_process():
            handlers.append(stack.enter_context(TrainingDisplay(config.log_every)))
            if tensorboard:
                log = TensorBoardLog(folder / "tensorboard", saved_step(folder))
                handlers.append(stack.enter_context(log))

        def tell(event: "ScanEvent | StepEvent") -> None:
            for handler in handlers:
                handler(event)

        yield tell
