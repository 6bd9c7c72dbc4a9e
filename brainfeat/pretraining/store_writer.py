"""Preprocessing of subjects into a store, by the processes of one or more ranks."""

__all__ = ["NothingStoredError", "preprocess_subjects", "write_store"]

import logging
import math
import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import torch.distributed as dist

from brainfeat.exceptions import BrainfeatError, InputError, TrainingError
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.preprocessing.quality import Quality
from brainfeat.pretraining.acquisitions import CopyPlan, store_acquisitions
from brainfeat.pretraining.label_maps import collect_structures
from brainfeat.pretraining.ranks import new_patient_group, rank, world_size
from brainfeat.pretraining.store import StoredScan, StoreIndex, VolumeStore
from brainfeat.pretraining.stored_subjects import StoredSubjects
from brainfeat.pretraining.tracking import Tracker, untracked
from brainfeat.simulation.degradation import DegradationConfig
from brainfeat.subjects.doubts import Doubts
from brainfeat.subjects.subject import Outcome, Subject
from brainfeat.workers import end_with_parent

logger = logging.getLogger(__name__)

Stored = tuple[StoredScan, ...]  # of one subject


class NothingStoredError(InputError):
    """No subject could be preprocessed; `failed` has the outcome of each."""

    def __init__(self, message: str, failed: Sequence[Outcome[Stored]]) -> None:
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
    n_degraded: int = 0,
    degradation: DegradationConfig | None = None,
) -> tuple[VolumeStore, list[Outcome[Any]]]:
    """Preprocess subjects into a store; return it, and the outcomes that failed.

    Arrays are named by the hash of their images and of the preprocessing, so that
    an interrupted call resumes and a changed image is preprocessed again. Subjects of
    one name are acquisitions of one subject. Each rank preprocesses its part of the
    subjects with `n_jobs` processes and passes its outcomes through `track`.

    `n_degraded` copies of each scan, drawn from `degradation`, go through the same
    preprocessing. Label maps that `find_label_maps` added are resampled with each.
    """
    structures, codes = collect_structures(subjects)
    plan = CopyPlan(
        n_degraded=n_degraded, config=degradation or DegradationConfig(), codes=codes
    )
    group = new_patient_group()
    mine = subjects[rank() :: world_size()]
    stream = preprocess_subjects(
        mine,
        Path(folder),
        preprocessor,
        modalities=modalities,
        n_jobs=n_jobs,
        plan=plan,
    )
    outcomes = list(track(stream, total=len(mine), description="preprocessing"))
    if group is not None:
        outcomes = _gather(outcomes, group)
    failed = [outcome for outcome in outcomes if outcome.result is None]
    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    scans = tuple(chain.from_iterable(results))
    if not scans:
        reason = f"; first error: {failed[0].error}" if failed else "."
        raise NothingStoredError(
            f"{os.fspath(folder)}: nothing to store{reason}", failed
        )
    _log_missing_copies(len(results), len(scans), n_degraded)
    _log_doubts(outcomes)
    # Every rank writes the same index.
    StoreIndex(
        modalities=tuple(modalities),
        preprocessing=preprocessor.to_dict(),
        scans=scans,
        structures=structures,
    ).save(Path(folder))
    return VolumeStore(folder), failed


def preprocess_subjects(
    subjects: Iterable[Subject],
    folder: Path,
    preprocessor: Preprocessor,
    *,
    modalities: Sequence[str],
    n_jobs: int = 1,
    plan: CopyPlan | None = None,
) -> Iterator[Outcome[Stored]]:
    """Write the arrays of each subject and yield the outcomes in order."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = plan or CopyPlan()
    records = StoredSubjects(folder, preprocessor, modalities, plan)
    subjects = list(subjects)
    states = [records.state_of(subject) for subject in subjects]
    known = [records.find(*pair) for pair in zip(subjects, states, strict=True)]
    work = partial(
        _store_subject,
        folder=folder,
        preprocessor=preprocessor,
        modalities=tuple(modalities),
        plan=plan,
    )
    fresh = (s for s, scans in zip(subjects, known, strict=True) if scans is None)
    with closing(_map(work, fresh, n_jobs if None in known else 1)) as outcomes:
        for subject, state, scans in zip(subjects, states, known, strict=True):
            if scans is not None:
                yield Outcome(subject, scans)
                continue
            outcome = next(outcomes)
            if outcome.result is not None:
                records.add(subject, state, outcome.result)
            yield outcome


def _map(
    work: Callable[[Subject], Outcome[Stored]], subjects: Iterable[Subject], n_jobs: int
) -> Generator[Outcome[Stored], None, None]:
    """Store subjects in processes, in order."""
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
    plan: CopyPlan,
) -> Outcome[Stored]:
    """Preprocess one subject unless its arrays exist."""
    try:
        stored = store_acquisitions(subject, folder, preprocessor, modalities, plan)
    except BrainfeatError as error:
        return Outcome(subject, error=error)
    return Outcome(subject, stored)


def _log_missing_copies(n_subjects: int, n_scans: int, n_degraded: int) -> None:
    n_missing = n_subjects * (1 + n_degraded) - n_scans
    if n_missing and rank() == 0:
        logger.info(
            "%d of %d degraded copies are left out: the brain is not found in them.",
            n_missing,
            n_subjects * n_degraded,
        )


def _log_doubts(outcomes: Iterable[Outcome[Stored]]) -> None:
    if rank() != 0:
        return
    doubts = Doubts()
    for outcome in outcomes:
        for scan in outcome.result or ():
            doubts.note(outcome.subject, Quality(math.nan, math.nan, scan.doubt))
    doubts.report(", but stored")


def _gather(
    outcomes: list[Outcome[Stored]], group: dist.ProcessGroup
) -> list[Outcome[Stored]]:
    """Collect the outcomes of all ranks, in the order of the subjects."""
    parts: list[list[Outcome[Stored]]] = [[] for _ in range(world_size())]
    dist.all_gather_object(parts, outcomes, group=group)
    turns = chain.from_iterable(zip_longest(*parts))
    return [outcome for outcome in turns if outcome is not None]
