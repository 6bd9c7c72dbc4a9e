"""From image files to a trained checkpoint: preprocess once, then train."""

__all__ = ["pretrain_on_scans"]

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from brainfeat.checkpoint import Checkpoint
from brainfeat.preprocessing import Preprocessor
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.parallel import distributed, training_device
from brainfeat.pretraining.ranks import rank, world_size
from brainfeat.pretraining.store import VolumeStore
from brainfeat.pretraining.store_writer import (
    FailedScan,
    Scan,
    fill_store,
    write_store,
)
from brainfeat.pretraining.trainer import pretrain

_PATIENCE = timedelta(days=3)  # for the processes that are done preprocessing


def pretrain_on_scans(
    scans: Sequence[Scan],
    config: PretrainingConfig,
    *,
    output: str | os.PathLike[str],
    preprocessor: Preprocessor | None = None,
    init: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str = "auto",
    n_jobs: int = 1,
) -> tuple[Checkpoint, list[FailedScan]]:
    """Preprocess scans into the folder ``store`` of the output, and train on them.

    Under torchrun every process calls this: they share the preprocessing and train
    together.

    Parameters
    ----------
    scans : sequence of Scan
        Acquisitions of subjects.
    config : PretrainingConfig
        Hyperparameters; the encoder's modalities are used, those that a scan does
        not have are absent.
    output : path-like
        Folder of the run, which becomes a checkpoint.
    preprocessor : Preprocessor, optional
        Takes volumes to the encoder's grid; by default that of `init`, else the
        default one.
    init : path-like or str, optional
        Checkpoint, or foreign DINOv2 weights, to start from.
    resume : bool
        Whether to go on where a run in `output` stopped.
    device : str
        A torch device, or ``"auto"``.
    n_jobs : int
        Processes that preprocess, for each training process.

    Returns
    -------
    Checkpoint
        The teacher's encoder, also saved in `output`.
    list of FailedScan
        Scans that could not be preprocessed.

    Raises
    ------
    InputError
        If no scan could be preprocessed.
    """
    folder = Path(output) / "store"
    if preprocessor is None:
        preprocessor = _preprocessor_of(init)
    with distributed(training_device(device)):
        store, failed = _write_together(scans, folder, preprocessor, config, n_jobs)
        checkpoint = pretrain(
            store, config, output=output, init=init, resume=resume, device=device
        )
    return checkpoint, failed


def _preprocessor_of(init: str | os.PathLike[str] | None) -> Preprocessor:
    if init is None:
        return Preprocessor()
    return Preprocessor.from_dict(Checkpoint.load(init).config.preprocessing)


def _write_together(
    scans: Sequence[Scan],
    folder: Path,
    preprocessor: Preprocessor,
    config: PretrainingConfig,
    n_jobs: int,
) -> tuple[VolumeStore, list[FailedScan]]:
    """Write a store from all processes: each its share, then one the index."""
    modalities = config.encoder.modalities
    if world_size() > 1:
        # NCCL gives up after minutes, and preprocessing takes hours.
        group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        share = scans[rank() :: world_size()]
        fill_store(share, folder, preprocessor, modalities=modalities, n_jobs=n_jobs)
        dist.barrier(group)
    # Finds the arrays there; every process writes the same index.
    return write_store(
        scans, folder, preprocessor, modalities=modalities, n_jobs=n_jobs
    )
