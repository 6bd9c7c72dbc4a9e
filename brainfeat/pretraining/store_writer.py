"""Preprocessing of subjects into a store, by the processes of one or more ranks."""

__all__ = ["NothingStoredError", "preprocess_subjects", "write_store"]

import hashlib
import io
import logging
import multiprocessing
import os
import signal
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import torch.distributed as dist

from brainfeat.exceptions import BrainfeatError, InputError, TrainingError
from brainfeat.io.atomic import atomic_write
from brainfeat.io.hashing import content_hash
from brainfeat.io.volumes import read_volume
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.pretraining.ranks import rank, world_size
from brainfeat.pretraining.store import StoredScan, StoreIndex, VolumeStore
from brainfeat.pretraining.tracking import Tracker, untracked
from brainfeat.subjects.subject import Outcome, Subject
from brainfeat.workers import end_with_parent

_TIMEOUT = timedelta(days=3)  # of ranks that wait for the others to preprocess


class NothingStoredError(InputError):
    """No subject could be preprocessed; `failed` has the outcome of each."""

    def __init__(self, message: str, failed: Sequence[Outcome[StoredScan]]) -> None:
        super().__init__(message)
        self.failed = failed


def write_store(
    subjects: Sequence[Subject],
    folder: str | os.PathLike[str],
    preprocessor: Preprocessor,
    *,
    modalities: Sequence[str],
    n_jobs: int = 1,
    track: Tracker = untracked,
) -> tuple[VolumeStore, list[Outcome[StoredScan]]]:
    """Preprocess subjects into a store; return it, and the outcomes that failed.

    Arrays are named by the hash of their images and of the preprocessing, so that
    an interrupted call resumes and a changed image is preprocessed again. Subjects of
    one name are acquisitions of one subject. Each rank preprocesses its part of the
    subjects with `n_jobs` processes and passes its outcomes through `track`.
    """
    group = None
    if world_size() > 1:
        # NCCL gives up after minutes, and preprocessing takes hours.
        group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
    mine = subjects[rank() :: world_size()]
    stream = preprocess_subjects(
        mine, Path(folder), preprocessor, modalities=modalities, n_jobs=n_jobs
    )
    outcomes = list(track(stream, total=len(mine), description="preprocessing"))
    if group is not None:
        outcomes = _gather(outcomes, group)
    failed = [outcome for outcome in outcomes if outcome.result is None]
    scans = tuple(outcome.result for outcome in outcomes if outcome.result is not None)
    if not scans:
        reason = f"; first error: {failed[0].error}" if failed else "."
        raise NothingStoredError(
            f"{os.fspath(folder)}: nothing to store{reason}", failed
        )
    # Every rank writes the same index.
    StoreIndex(
        modalities=tuple(modalities), preprocessing=preprocessor.to_dict(), scans=scans
    ).save(Path(folder))
    return VolumeStore(folder), failed


def preprocess_subjects(
    subjects: Iterable[Subject],
    folder: Path,
    preprocessor: Preprocessor,
    *,
    modalities: Sequence[str],
    n_jobs: int = 1,
) -> Iterator[Outcome[StoredScan]]:
    """Write the array of each subject and yield the outcomes in order."""
    folder.mkdir(parents=True, exist_ok=True)
    work = partial(
        _store_subject,
        folder=folder,
        preprocessor=preprocessor,
        modalities=tuple(modalities),
    )
    if n_jobs == 1:
        yield from map(work, subjects)
        return
    # Forked children would share the locks of this process' threads.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(n_jobs, context, _start_worker) as pool:
            yield from pool.map(work, subjects)
    except BrokenProcessPool as error:
        raise TrainingError(
            "the system ended a process that preprocesses, usually for want of memory; "
            "use fewer jobs. Finished scans are kept."
        ) from error


def _start_worker() -> None:
    # The parent handles Ctrl-C and stops its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    # Warnings of libraries about single files would interrupt the progress display.
    warnings.simplefilter("ignore")
    logging.getLogger("nibabel").setLevel(logging.CRITICAL)


def _store_subject(
    subject: Subject,
    *,
    folder: Path,
    preprocessor: Preprocessor,
    modalities: tuple[str, ...],
) -> Outcome[StoredScan]:
    """Preprocess one subject unless its array exists."""
    try:
        paths = subject.paths
        path = folder / _array_name(paths, preprocessor, modalities)
        if not path.is_file():
            volumes = {name: read_volume(image) for name, image in paths.items()}
            result = preprocessor.apply(volumes, modalities)
            foreground = result.foreground[None].astype(np.float16)
            data = np.concatenate([result.data.astype(np.float16), foreground])
            content = io.BytesIO()
            np.save(content, data)  # np.save to a file gives no reason when it fails
            with atomic_write(path) as unfinished:
                unfinished.write_bytes(content.getbuffer())
    except BrainfeatError as error:
        return Outcome(subject, error=error)
    present = tuple(name in paths for name in modalities)
    scan = StoredScan(subject=subject.participant_id, file=path.name, present=present)
    return Outcome(subject, scan)


def _array_name(
    paths: dict[str, str], preprocessor: Preprocessor, modalities: tuple[str, ...]
) -> str:
    digest = hashlib.sha256(preprocessor.fingerprint.encode())
    digest.update(repr(modalities).encode())
    for modality in sorted(paths):
        digest.update(f"{modality} {content_hash(paths[modality])}".encode())
    return f"{digest.hexdigest()[:32]}.npy"


def _gather(
    outcomes: list[Outcome[StoredScan]], group: dist.ProcessGroup
) -> list[Outcome[StoredScan]]:
    """Collect the outcomes of all ranks, in the order of the subjects."""
    parts: list[list[Outcome[StoredScan]]] = [[] for _ in range(world_size())]
    dist.all_gather_object(parts, outcomes, group=group)
    turns = chain.from_iterable(zip_longest(*parts))
    return [outcome for outcome in turns if outcome is not None]
