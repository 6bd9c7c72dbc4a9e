"""Pretraining, from scans or a source of subjects to a checkpoint."""

__all__ = ["pretrain"]

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.exceptions import ConfigError, InputError
from brainfeat.io.paths import expand_home
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.pretraining import warm_start
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.data import TrainingSubjects, collect_training_data
from brainfeat.pretraining.estimate import describe_duration
from brainfeat.pretraining.parallel import joined_ranks
from brainfeat.pretraining.probe import LinearProbe, make_probe
from brainfeat.pretraining.progress import ProgressTracker
from brainfeat.pretraining.ranks import rank
from brainfeat.pretraining.run_state import FAILURES_NAME, saved_step
from brainfeat.pretraining.source import SubjectSource
from brainfeat.pretraining.store import INDEX_NAME, StoreIndex, VolumeStore
from brainfeat.pretraining.store_writer import NothingStoredError, write_store
from brainfeat.pretraining.tracking import Tracker
from brainfeat.pretraining.trainer import Trainer
from brainfeat.pretraining.warm_start import Start
from brainfeat.subjects.failures import write_failures
from brainfeat.subjects.subject import Outcome

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


def pretrain(  # noqa: PLR0913 (the last one is for the command line)
    data: "str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | pd.DataFrame "
    "| TrainingSubjects | SubjectSource",
    config: PretrainingConfig,
    *,
    output: str | os.PathLike[str],
    init: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str = "auto",
    n_jobs: int = 1,
    labels: Mapping[str, bool] | None = None,
    label_maps: str | os.PathLike[str] | None = None,
    label_table: str | os.PathLike[str] | None = None,
    track: Tracker | None = None,
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
        ``pretraining.json``, the log ``log.jsonl``, the state that a run is
        resumed from and, with `labels`, the best checkpoint ``best``.
    init : path-like or str, optional
        Checkpoint, or foreign DINOv2 weights, to start from; images are then
        preprocessed for it.
    resume : bool
        Whether to resume the run in `output`. The result equals that of an
        uninterrupted run of as many processes, unless the scans have changed, which
        gives a warning. Steps, what is logged and saved, precision, parallelism and the
        number of processes may differ from before.
    device : str
        A torch device; ``"auto"`` takes the fastest available. It changes the
        result by rounding only.
    n_jobs : int
        Processes that preprocess. Speed only.
    labels : mapping of str to bool, optional
        Class of each subject, by its name without ``sub-``, for a linear probe that
        scores the encoder during training.
    label_maps : path-like, optional
        Folder of label maps, which are found by the names of their subjects, for the
        anatomy objective; subjects without one take part in the other objectives. A
        manifest or a table may name them in a column ``label_map`` instead.
    label_table : path-like, optional
        TSV or CSV with columns ``index`` and ``name``: the structure of each value of
        the label maps. Values of one name are one structure, and a value in several
        rows is part of several. By default the table beside each label map, or that of
        a column ``label_table``.
    track : callable, optional
        Called with each stream of work, of preprocessing and of training, and with
        its ``total``, ``description`` and ``n_before``; yields the items and reports
        them. By default progress is shown if messages of level INFO are.

    Returns
    -------
    Checkpoint
        The teacher's encoder, also saved in `output`.

    Raises
    ------
    InputError
        If there is nothing to train on, or too few subjects have labels.
    ConfigError
        If the configuration does not fit the data, the number of processes, or
        the run that is resumed.
    CheckpointError
        If `init` is unknown or another kind of encoder.
    TrainingError
        If `output` holds a run and `resume` is false, another run is writing to it,
        or training diverges or collapses.
    """
    folder = expand_home(output)
    modalities = config.encoder.modalities
    data = collect_training_data(
        data, modalities=modalities, label_maps=label_maps, label_table=label_table
    )
    config = _without_absent_modalities(config, data.modalities)
    config = _without_unknown_anatomy(config, data.targets)
    with joined_ranks(device) as target:
        track = track or _default_tracker(config)
        start = warm_start.choose_start(folder, config, init=init, resume=resume)
        if isinstance(data, TrainingSubjects):
            data = replace(data, preprocessor=_choose_preprocessor(start, folder))
        warm_start.check_fit(data, config)
        warm_start.check_grid(data.shape, config)
        _log_absent_modalities(modalities, config.encoder.modalities)
        _log_duration(data.shape, config, target, saved_step(folder))
        with warm_start.run_lock(folder):
            source: SubjectSource
            if isinstance(data, TrainingSubjects):
                source = _preprocess(data, config, folder, n_jobs, track)
                warm_start.check_fit(source, config)
            else:
                source = data
                _list_failures(folder, [])
            _warn_of_repeats(source, config)
            _warn_of_other_preprocessing(source, start)
            probe = _build_probe(source, config, labels)
            trainer = Trainer(source, config, folder, device=target, probe=probe)
            return trainer.train(start, track)


def _log_duration(
    shape: tuple[int, int, int],
    config: PretrainingConfig,
    device: torch.device,
    n_done: int,
) -> None:
    """Say how long the run takes, before hours of preprocessing."""
    if rank() == 0 and (
        text := describe_duration(config, shape, device, n_done=n_done)
    ):
        logger.info(text)


def _default_tracker(config: PretrainingConfig) -> ProgressTracker:
    is_shown = rank() == 0 and logger.isEnabledFor(logging.INFO)
    return ProgressTracker(config.log_every, show=is_shown)


def _without_absent_modalities(
    config: PretrainingConfig, present: Sequence[str]
) -> PretrainingConfig:
    """Drop modalities that no scan has from the encoder."""
    encoder = config.encoder
    used = tuple(name for name in encoder.modalities if name in present)
    if used == encoder.modalities or not used:
        return config
    return replace(config, encoder=replace(encoder, modalities=used))


def _without_unknown_anatomy(
    config: PretrainingConfig, targets: Sequence[str]
) -> PretrainingConfig:
    """Drop the anatomy objective beside agreement if there are no label maps."""
    if targets or config.anatomy_weight == 0 or not config.uses_pairs:
        return config
    if rank() == 0:
        logger.info("No label maps: the anatomy objective is left out.")
    return replace(config, anatomy_weight=0.0, anatomy_whole_weight=0.0)


def _log_absent_modalities(expected: Sequence[str], used: Sequence[str]) -> None:
    absent = [name for name in expected if name not in used]
    if absent:
        text = "No scan has %s: the encoder is for %s."
        logger.info(text, " or ".join(absent), ", ".join(used))


def _choose_preprocessor(start: Start, folder: Path) -> Preprocessor:
    if start.resumes and (folder / "store" / INDEX_NAME).is_file():
        # Before the first checkpoint is complete, only the store has it.
        return Preprocessor.from_dict(StoreIndex.load(folder / "store").preprocessing)
    checkpoint = Checkpoint.load(folder) if start.resumes else start.checkpoint
    if checkpoint is None:
        return Preprocessor()
    values = checkpoint.config.preprocessing
    if values.get("kind") == "recipe":
        raise ConfigError(
            "init: expected weights whose input a Preprocessor makes, got those of "
            f"{values.get('name')!r}, whose authors have an input recipe of their own."
        )
    return Preprocessor.from_dict(values)


def _preprocess(
    data: TrainingSubjects,
    config: PretrainingConfig,
    folder: Path,
    n_jobs: int,
    track: Tracker,
) -> VolumeStore:
    """Write the store of a run, and the list of what failed."""
    try:
        store, failed = write_store(
            data.subjects,
            folder / "store",
            data.preprocessor,
            modalities=data.modalities,
            n_jobs=n_jobs,
            track=track,
            n_degraded=config.n_degraded,
        )
    except NothingStoredError as error:
        _list_failures(folder, [*data.failed, *error.failed])
        raise
    _list_failures(folder, [*data.failed, *failed])
    return store


def _list_failures(folder: Path, failed: Sequence[Outcome[Any]]) -> None:
    if rank() == 0:
        write_failures(folder / FAILURES_NAME, failed)


def _build_probe(
    source: SubjectSource, config: PretrainingConfig, labels: Mapping[str, bool] | None
) -> LinearProbe | None:
    if labels is None:
        return None
    if not isinstance(source, VolumeStore):
        raise InputError(
            "labels: expected images or a store, whose subjects have names."
        )
    return make_probe(labels, source, plane=config.views.planes[0])


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


def _warn_of_other_preprocessing(source: SubjectSource, start: Start) -> None:
    """Warn of a store whose preprocessing differs from the initial checkpoint's."""
    if start.checkpoint is None or not isinstance(source, VolumeStore) or rank() != 0:
        return
    if start.checkpoint.config.preprocessing.get("kind") == "recipe":
        return  # of other settings in any case
    expected, stored = (
        Preprocessor.from_dict(values).to_dict()
        for values in (start.checkpoint.config.preprocessing, source.preprocessing)
    )
    names = [name for name in expected if expected[name] != stored[name]]
    if names:
        logger.warning(
            "%s: its volumes have %s, the initial weights were trained with %s.",
            source.folder,
            ", ".join(f"{name} {stored[name]}" for name in names),
            ", ".join(f"{name} {expected[name]}" for name in names),
        )
