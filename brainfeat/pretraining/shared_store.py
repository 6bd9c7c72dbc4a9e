"""A store that the processes of a run fill together, each its share of the scans."""

__all__ = ["write_store_together"]

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import chain, zip_longest

import torch.distributed as dist

from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.pretraining.ranks import rank, world_size
from brainfeat.pretraining.store import VolumeStore
from brainfeat.pretraining.store_writer import (
    FailedScan,
    Outcome,
    Scan,
    ScanEvent,
    fill_store,
    finish_store,
)

_PATIENCE = timedelta(days=3)  # for the processes that are done preprocessing


def write_store_together(
    scans: Sequence[Scan],
    folder: str | os.PathLike[str],
    preprocessor: Preprocessor,
    *,
    modalities: Sequence[str],
    n_jobs: int = 1,
    on_scan: Callable[[ScanEvent], None] | None = None,
) -> tuple[VolumeStore, list[FailedScan]]:
    """Preprocess scans into a store, as `write_store` does, from all processes.

    Parameters
    ----------
    scans : sequence of Scan
        What the store will hold, the same in every process.
    folder : path-like
        Folder of the store, which every process can write to.
    preprocessor : Preprocessor
        Takes volumes to the encoder's grid.
    modalities : sequence of str
        BIDS suffixes, in the order of the encoder.
    n_jobs : int
        Processes that preprocess, for each process of the run.
    on_scan : callable, optional
        Called with a `ScanEvent` for each scan of this process' share.

    Returns
    -------
    VolumeStore
        The store, with all scans that could be preprocessed.
    list of FailedScan
        The others.
    """
    group = None
    if world_size() > 1:
        # While all are here: NCCL gives up after minutes, and the work takes hours.
        group = dist.new_group(backend="gloo", timeout=_PATIENCE)
    outcomes = fill_store(
        scans[rank() :: world_size()],
        folder,
        preprocessor,
        modalities=modalities,
        n_jobs=n_jobs,
        on_scan=on_scan,
    )
    if group is not None:
        outcomes = _of_all_ranks(outcomes, group)
    # Every process writes the same index.
    return finish_store(scans, outcomes, folder, preprocessor, modalities=modalities)


def _of_all_ranks(outcomes: list[Outcome], group: dist.ProcessGroup) -> list[Outcome]:
    """Put the outcomes of all shares into the order of the scans."""
    shares: list[list[Outcome]] = [[] for _ in range(world_size())]
    dist.all_gather_object(shares, outcomes, group=group)
    turns = chain.from_iterable(zip_longest(*shares))
    return [outcome for outcome in turns if outcome is not None]
