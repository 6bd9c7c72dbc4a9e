"""Preprocess scans once, into a store that training reads."""

__all__ = [
    "FailedScan",
    "NothingStoredError",
    "Outcome",
    "Scan",
    "ScanEvent",
    "fill_store",
    "finish_store",
    "write_store",
]

import hashlib
import io
import logging
import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from brainfeat.exceptions import BrainfeatError, InputError, TrainingError
from brainfeat.io.atomic import atomic_write
from brainfeat.io.child_process import end_with_parent
from brainfeat.io.hashing import content_hash
from brainfeat.io.volumes import read_volume
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.pretraining.store import StoredScan, StoreIndex, VolumeStore


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Images of one acquisition of one subject.

    Parameters
    ----------
    subject : str
        Scans of the same name are acquisitions of one subject.
    images : mapping of str to path-like
        One image a modality; absent ones are left out.
    """

    subject: str
    images: Mapping[str, str | os.PathLike[str]]


class FailedScan(NamedTuple):
    """A scan that is not in the store.

    Attributes
    ----------
    scan : Scan
        The scan.
    error : BrainfeatError
        Why.
    """

    scan: Scan
    error: BrainfeatError


# A scan's place in the store, or why it has none.
Outcome = StoredScan | BrainfeatError


class NothingStoredError(InputError):
    """No scan could be preprocessed.

    Parameters
    ----------
    message : str
        Where, and why the first one failed.
    failed : list of FailedScan
        All of them.
    """

    def __init__(self, message: str, failed: list[FailedScan]) -> None:
        super().__init__(message)
        self.failed = failed


class ScanEvent(NamedTuple):
    """A scan that is in the store, or failed.

    Attributes
    ----------
    n_done, n_scans : int
        Scans looked at so far, and all scans.
    scan : Scan
        The scan.
    error : BrainfeatError or None
        Why it failed.
    """

    n_done: int
    n_scans: int
    scan: Scan
    error: BrainfeatError | None


def write_store(
    scans: Sequence[Scan],
    folder: str | os.PathLike[str],
    preprocessor: Preprocessor,
    *,
    modalities: Sequence[str],
    n_jobs: int = 1,
    on_scan: Callable[[ScanEvent], None] | None = None,
) -> tuple[VolumeStore, list[FailedScan]]:
    """Preprocess scans into a store; those already there are not done again.

    An array is named by the content of its images and by the preprocessing, so that
    an interrupted call is resumed, and a changed image done again.

    Parameters
    ----------
    scans : sequence of Scan
        What the store will hold.
    folder : path-like
        Folder of the store.
    preprocessor : Preprocessor
        Takes volumes to the encoder's grid.
    modalities : sequence of str
        BIDS suffixes, in the order of the encoder.
    n_jobs : int
        Number of processes.
    on_scan : callable, optional
        Called with a `ScanEvent` for each scan, in their order.

    Returns
    -------
    VolumeStore
        The store, with all scans that could be preprocessed.
    list of FailedScan
        The others.

    Raises
    ------
    NothingStoredError
        If no scan could be preprocessed.
    """
    outcomes = fill_store(
        scans,
        folder,
        preprocessor,
        modalities=modalities,
        n_jobs=n_jobs,
        on_scan=on_scan,
    )
    return finish_store(scans, outcomes, folder, preprocessor, modalities=modalities)


def finish_store(
    scans: Sequence[Scan],
    outcomes: Sequence[Outcome],
    folder: str | os.PathLike[str],
    preprocessor: Preprocessor,
    *,
    modalities: Sequence[str],
) -> tuple[VolumeStore, list[FailedScan]]:
    """Write the index over arrays that are there: the rest of `write_store`.

    Parameters
    ----------
    scans : sequence of Scan
        What the store will hold.
    outcomes : sequence of StoredScan or BrainfeatError
        What `fill_store` gives for each.
    folder : path-like
        Folder of the store.
    preprocessor : Preprocessor
        What made the arrays.
    modalities : sequence of str
        BIDS suffixes, in the order of the encoder.

    Returns
    -------
    VolumeStore
        The store, with all scans that could be preprocessed.
    list of FailedScan
        The others.

    Raises
    ------
    NothingStoredError
        If no scan could be preprocessed.
    """
    stored: list[StoredScan] = []
    failed: list[FailedScan] = []
    for scan, outcome in zip(scans, outcomes, strict=True):
        if isinstance(outcome, StoredScan):
            stored.append(outcome)
        else:
            failed.append(FailedScan(scan, outcome))
    if not stored:
        reason = failed[0].error if failed else "there are no scans"
        raise NothingStoredError(
            f"{os.fspath(folder)}: nothing to store; the first reason: {reason}", failed
        )
    index = StoreIndex(
        modalities=tuple(modalities),
        preprocessing=preprocessor.to_dict(),
        scans=tuple(stored),
    )
    index.save(Path(folder))
    return VolumeStore(folder), failed


def fill_store(
    scans: Sequence[Scan],
    folder: str | os.PathLike[str],
    preprocessor: Preprocessor,
    *,
    modalities: Sequence[str],
    n_jobs: int = 1,
    on_scan: Callable[[ScanEvent], None] | None = None,
) -> list[Outcome]:
    """Write the arrays of scans, but no index: a share of the work of `write_store`.

    Parameters
    ----------
    scans : sequence of Scan
        What to preprocess; arrays that are already there are kept.
    folder : path-like
        Folder of the store.
    preprocessor : Preprocessor
        Takes volumes to the encoder's grid.
    modalities : sequence of str
        BIDS suffixes, in the order of the encoder.
    n_jobs : int
        Number of processes.
    on_scan : callable, optional
        Called with a `ScanEvent` for each scan, in their order.

    Returns
    -------
    list of StoredScan or BrainfeatError
        One for each scan: its place in the store, or why it has none.

    Raises
    ------
    TrainingError
        If the system ended one of the processes.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    work = partial(
        _store_scan,
        folder=target,
        preprocessor=preprocessor,
        modalities=tuple(modalities),
    )
    outcomes = []
    for scan, outcome in zip(scans, _map(work, scans, n_jobs), strict=True):
        outcomes.append(outcome)
        if on_scan is not None:
            error = None if isinstance(outcome, StoredScan) else outcome
            on_scan(ScanEvent(len(outcomes), len(scans), scan, error))
    return outcomes


def _map(
    work: "partial[Outcome]", scans: Sequence[Scan], n_jobs: int
) -> Iterator[Outcome]:
    if n_jobs == 1:
        yield from map(work, scans)
        return
    # Forked children would share the locks of this process' threads.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(n_jobs, context, _start_worker) as pool:
            yield from pool.map(work, scans)
    except BrokenProcessPool as error:
        raise TrainingError(
            "a process that preprocesses was ended by the system, as a rule for want "
            "of memory; use fewer jobs. Scans that are done are kept."
        ) from error


def _start_worker() -> None:
    # Ctrl-C reaches every process of a terminal; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    # What libraries say about single files would stand between our own lines.
    warnings.simplefilter("ignore")
    logging.getLogger("nibabel").setLevel(logging.CRITICAL)


def _store_scan(
    scan: Scan, *, folder: Path, preprocessor: Preprocessor, modalities: tuple[str, ...]
) -> Outcome:
    """Preprocess one scan, unless its array is there; return the error if it fails."""
    try:
        name = _array_name(scan, preprocessor, modalities)
        path = folder / name
        if not path.is_file():
            volumes = {key: read_volume(image) for key, image in scan.images.items()}
            subject = preprocessor.apply(volumes, modalities)
            foreground = subject.foreground[None].astype(np.float16)
            data = np.concatenate([subject.data.astype(np.float16), foreground])
            content = io.BytesIO()
            np.save(content, data)  # into a file it does not say why it fails
            with atomic_write(path) as unfinished:
                unfinished.write_bytes(content.getbuffer())
    except BrainfeatError as error:
        return error
    present = tuple(key in scan.images for key in modalities)
    return StoredScan(subject=scan.subject, file=name, present=present)


def _array_name(
    scan: Scan, preprocessor: Preprocessor, modalities: tuple[str, ...]
) -> str:
    digest = hashlib.sha256(preprocessor.fingerprint.encode())
    digest.update(repr(modalities).encode())
    for modality in sorted(scan.images):
        digest.update(f"{modality} {content_hash(scan.images[modality])}".encode())
    return f"{digest.hexdigest()[:32]}.npy"
