"""Pretraining from whatever a user has, to a checkpoint and an account of it."""

__all__ = [
    "TrainingOptions",
    "TrainingSummary",
    "pretrain",
    "run_pretraining",
]

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.exceptions import ConfigError, InputError
from brainfeat.io.paths import expand_home
from brainfeat.models.device import resolve_training_device
from brainfeat.models.transfer import adapt_state
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.pretraining import trainer
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.data import ScanList, collect_training_data
from brainfeat.pretraining.labels import make_probe
from brainfeat.pretraining.parallel import distributed
from brainfeat.pretraining.probe import LinearProbe
from brainfeat.pretraining.ranks import rank
from brainfeat.pretraining.run_checks import (
    CONFIG_NAME,
    check_fit,
    check_grid,
    check_run_folder,
    hold_run_folder,
)
from brainfeat.pretraining.shared_store import write_store_together
from brainfeat.pretraining.store import INDEX_NAME, StoreIndex, VolumeStore
from brainfeat.pretraining.store_writer import (
    FailedScan,
    NothingStoredError,
    ScanEvent,
)
from brainfeat.pretraining.subjects import SubjectSource
from brainfeat.pretraining.trainer import StepEvent
from brainfeat.subjects.failures import write_failures
from brainfeat.subjects.subject import Outcome, Subject

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

EventHandler = Callable[[ScanEvent | StepEvent], None]


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How a run begins and goes, not what it learns.

    Parameters
    ----------
    modalities : sequence of str
        Modalities to use; none means all that the encoder has.
    init : path-like or str, optional
        Checkpoint, or foreign DINOv2 weights, to start from.
    resume : bool
        Whether to go on where a run in the folder stopped.
    device : str
        A torch device, or ``"auto"``.
    n_jobs : int
        Processes that preprocess.
    labels : mapping of str to bool, optional
        Classes of subjects, from `read_labels`, that the encoder is probed with.
    """

    modalities: Sequence[str] = ()
    init: str | os.PathLike[str] | None = None
    resume: bool = False
    device: str = "auto"
    n_jobs: int = 1
    labels: Mapping[str, bool] | None = None


class TrainingSummary(NamedTuple):
    """What became of a run.

    Attributes
    ----------
    checkpoint : Checkpoint
        The encoder.
    folder : Path
        Folder of the run and of the checkpoint.
    n_steps : int
        Steps of the run.
    loss : float or None
        Loss of the last step in the log.
    failed : tuple of Outcome
        Scans and inputs that were not trained on.
    failures : Path or None
        Table of what failed, None if nothing did.
    """

    checkpoint: Checkpoint
    folder: Path
    n_steps: int
    loss: float | None
    failed: tuple[Outcome[Any], ...]
    failures: Path | None


def pretrain(
    data: "str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | pd.DataFrame "
    "| SubjectSource",
    config: PretrainingConfig,
    *,
    output: str | os.PathLike[str],
    init: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str = "auto",
    n_jobs: int = 1,
) -> Checkpoint:
    """Train an encoder on brain MRI, without labels.

    Images are preprocessed once, into the folder ``store`` of the output; scans
    that fail are left out and listed in ``failures.tsv``. Under torchrun every
    process calls this: they share the preprocessing and train together.

    Parameters
    ----------
    data : path-like, list of path-like, DataFrame or SubjectSource
        Images, globs, folders, BIDS folders and manifests, as on the command
        line; a table with a row an acquisition and a column a modality, whose
        index names the subjects; the folder of a store that another run made; or
        any object with the methods of a store. Sessions and runs of a subject
        count as acquisitions of one brain.
    config : PretrainingConfig
        Hyperparameters. Modalities of its encoder that the data do not have are
        left out.
    output : path-like
        Folder that becomes the checkpoint. It also holds the configuration
        ``pretraining.json``, the log ``log.jsonl`` and the state that a run is
        resumed from.
    init : path-like or str, optional
        Checkpoint, or foreign DINOv2 weights, to start from; images are then
        preprocessed as it says.
    resume : bool
        Whether to go on where a run in `output` stopped. The result equals that
        of an uninterrupted run of as many processes, unless the scans are others
        now, which is warned of.
    device : str
        A torch device; ``"auto"`` takes the fastest there is. It changes the
        result by rounding only.
    n_jobs : int
        Processes that preprocess. It changes nothing else.

    Returns
    -------
    Checkpoint
        The teacher's encoder, also saved in `output`.

    Raises
    ------
    InputError
        If there is nothing to train on.
    ConfigError
        If the configuration does not fit the data, the number of processes, or
        the run that is resumed.
    CheckpointError
        If `init` is unknown or another kind of encoder.
    TrainingError
        If `output` holds a run and `resume` is false, another run is writing it, or
        training cannot go on.
    """
    options = TrainingOptions(init=init, resume=resume, device=device, n_jobs=n_jobs)
    return run_pretraining(data, config, output, options=options).checkpoint


def run_pretraining(
    data: object,
    config: PretrainingConfig,
    output: str | os.PathLike[str],
    *,
    options: TrainingOptions,
    on_event: EventHandler | None = None,
) -> TrainingSummary:
    """Do what `pretrain` does, and tell of it.

    Parameters
    ----------
    data : object
        Anything that `pretrain` takes.
    config : PretrainingConfig
        Hyperparameters.
    output : path-like
        Folder of the run.
    options : TrainingOptions
        How the run begins and goes.
    on_event : callable, optional
        Called with a `ScanEvent` for each scan and a `StepEvent` for each step;
        by default they go to the log.

    Returns
    -------
    TrainingSummary
        The checkpoint, and what failed.
    """
    folder = expand_home(output)
    on_event = on_event or _Logger(config.log_every)
    found = collect_training_data(
        data, modalities=config.encoder.modalities, wanted=options.modalities
    )
    asked, config = config, _without_absent_modalities(config, found.modalities)
    with distributed(resolve_training_device(options.device)):
        check_fit(found, config)
        goes_on = check_run_folder(folder, config, resume=options.resume)
        if options.resume and not goes_on:
            _tell_of_new_start(folder, options.init)
        start = None if goes_on else _load_start(options.init, config)
        _tell_of_absent_modalities(asked, config)
        if isinstance(found, ScanList):
            preprocessor = _choose_preprocessor(start, folder if goes_on else None)
            check_grid(preprocessor.shape, config)
        else:
            check_grid(found.shape, config)
        with hold_run_folder(folder):
            source, failed = (
                _write_store(found, folder, preprocessor, options.n_jobs, on_event)
                if isinstance(found, ScanList)
                else (found, [])
            )
            _warn_of_repeats(source, config)
            _warn_of_other_volumes(source, start)
            failures = _list_failures(folder, failed)
            checkpoint = trainer.pretrain(
                source,
                config,
                output=folder,
                init=start,
                resume=options.resume,
                device=options.device,
                probe=_build_probe(source, config, options),
                on_step=on_event,
            )
    loss = _last_loss(folder / "log.jsonl")
    return TrainingSummary(
        checkpoint, folder, config.n_steps, loss, tuple(failed), failures
    )


class _Logger:
    """Where nobody watches, scans and steps go to the log."""

    def __init__(self, log_every: int) -> None:
        self._log_every = log_every

    def __call__(self, event: ScanEvent | StepEvent) -> None:
        if isinstance(event, ScanEvent):
            logger.info("preprocessed %d of %d scans.", event.n_done, event.n_scans)
        elif event.n_done % self._log_every == 0:
            loss = event.measures["total"]
            logger.info("step %d of %d: loss %.3f.", event.n_done, event.n_steps, loss)


def _without_absent_modalities(
    config: PretrainingConfig, present: Sequence[str]
) -> PretrainingConfig:
    """Leave out modalities that no scan has: nothing could be learnt of them."""
    encoder = config.encoder
    used = tuple(name for name in encoder.modalities if name in present)
    if used == encoder.modalities or not used:
        return config
    return dataclasses.replace(
        config, encoder=dataclasses.replace(encoder, modalities=used)
    )


def _tell_of_absent_modalities(
    asked: PretrainingConfig, config: PretrainingConfig
) -> None:
    used = config.encoder.modalities
    absent = [name for name in asked.encoder.modalities if name not in used]
    if absent:
        text = "No scan has %s: the encoder is for %s."
        logger.info(text, " or ".join(absent), ", ".join(used))


def _tell_of_new_start(folder: Path, init: str | os.PathLike[str] | None) -> None:
    """Say from what a run begins that was cut off before its first checkpoint."""
    if (folder / CONFIG_NAME).exists() and rank() == 0:
        logger.warning(
            "%s: there is no checkpoint to go on from; the run begins anew, from %s.",
            folder,
            "random weights" if init is None else os.fspath(init),
        )


def _load_start(
    init: str | os.PathLike[str] | None, config: PretrainingConfig
) -> Checkpoint | None:
    """Load the checkpoint to start from, and refuse one that does not fit.

    Raises
    ------
    ConfigError
        If its encoder has other sizes than the configuration's.
    """
    if init is None:
        return None
    checkpoint = Checkpoint.load(init)
    fixed = ("embed_dim", "depth", "num_heads", "patch_size", "ffn")
    for name in fixed:
        values = [
            getattr(encoder, name)
            for encoder in (checkpoint.config.encoder, config.encoder)
        ]
        if values[0] != values[1]:
            raise ConfigError(
                f"{os.fspath(init)}: its encoder has {name} {values[0]}, that of the "
                f"configuration {values[1]}."
            )
    adapt_state(checkpoint.state, checkpoint.config.encoder, config.encoder)
    plane, planes = checkpoint.config.plane, config.views.planes
    if plane not in planes:
        logger.warning(
            "%s: its slabs are %s, those of this run %s (views.planes).",
            os.fspath(init),
            plane,
            ", ".join(planes),
        )
    return checkpoint


def _choose_preprocessor(start: Checkpoint | None, begun: Path | None) -> Preprocessor:
    if begun is not None:
        # A run that goes on sees the volumes that it began with, also without its
        # store. Before the first checkpoint is whole, the store alone knows them.
        if (begun / "store" / INDEX_NAME).is_file():
            return Preprocessor.from_dict(
                StoreIndex.load(begun / "store").preprocessing
            )
        return Preprocessor.from_dict(Checkpoint.load(begun).config.preprocessing)
    if start is not None:
        return Preprocessor.from_dict(start.config.preprocessing)
    return Preprocessor()


def _write_store(
    found: ScanList,
    folder: Path,
    preprocessor: Preprocessor,
    n_jobs: int,
    on_event: EventHandler,
) -> tuple[SubjectSource, list[Outcome[Any]]]:
    """Make a store of scans.

    Raises
    ------
    NothingStoredError
        If no scan could be preprocessed; all are listed then.
    """
    try:
        store, failed = write_store_together(
            found.scans,
            folder / "store",
            preprocessor,
            modalities=found.modalities,
            n_jobs=n_jobs,
            on_scan=on_event,
        )
    except NothingStoredError as error:
        problems = [*found.problems, *map(_describe_failure, error.failed)]
        _list_failures(folder, problems)
        raise
    return store, [*found.problems, *map(_describe_failure, failed)]


def _build_probe(
    source: SubjectSource, config: PretrainingConfig, options: TrainingOptions
) -> LinearProbe | None:
    """Build the probe of the labels, if there are any.

    Raises
    ------
    InputError
        If the subjects have no names.
    """
    if options.labels is None:
        return None
    if not isinstance(source, VolumeStore):
        raise InputError(
            "labels: expected images or a store, whose subjects have names."
        )
    return make_probe(options.labels, source, plane=config.views.planes[0])


def _warn_of_repeats(source: SubjectSource, config: PretrainingConfig) -> None:
    if not isinstance(source, VolumeStore):
        return
    n_subjects = len(source.subjects)
    if n_subjects < config.batch_size and rank() == 0:
        logger.warning(
            "There are %d subjects for a batch_size of %d: some are twice in a step.",
            n_subjects,
            config.batch_size,
        )


def _warn_of_other_volumes(source: SubjectSource, start: Checkpoint | None) -> None:
    """Say where a store was preprocessed otherwise than the weights know it."""
    if start is None or not isinstance(source, VolumeStore) or rank() != 0:
        return
    known, given = (
        Preprocessor.from_dict(values).to_dict()
        for values in (start.config.preprocessing, source.preprocessing)
    )
    differing = [name for name in known if known[name] != given[name]]
    if differing:
        logger.warning(
            "%s: its volumes have %s, those that the weights to start from know %s.",
            source.folder,
            ", ".join(f"{name} {given[name]}" for name in differing),
            ", ".join(f"{name} {known[name]}" for name in differing),
        )


def _describe_failure(failed: FailedScan) -> Outcome[Any]:
    subject = Subject(failed.scan.subject, failed.scan.images)
    return Outcome(subject, error=failed.error)


def _list_failures(folder: Path, failed: Sequence[Outcome[Any]]) -> Path | None:
    return write_failures(folder / "failures.tsv", failed) if rank() == 0 else None


def _last_loss(log: Path) -> float | None:
    lines = map(json.loads, log.read_text().splitlines())
    losses = [line["total"] for line in lines if "total" in line]
    return losses[-1] if losses else None
