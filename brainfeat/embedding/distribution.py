"""Embedding in many processes: paths go out, vectors come back."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from brainfeat.embedding.cache import EmbeddingCache
from brainfeat.embedding.clusters import Workers
from brainfeat.embedding.recipe import (
    EncoderRecipe,
    RemoteFailure,
    RemoteOutcome,
    encode_remotely,
)
from brainfeat.exceptions import BrainfeatError, WorkerError
from brainfeat.subjects.failures import add_context
from brainfeat.subjects.subject import Subject

__all__ = ["Distribution", "encode_in_workers"]

Tag = TypeVar("Tag")

# Calls that wait beside each one that runs, so that no worker waits for us.
_CALLS_PER_WORKER = 2
# A GPU is fed several batches a call; on a CPU each subject is a call, so that a
# worker that dies costs no more than that.
_SUBJECTS_PER_CALL = {"cuda": 32}


@dataclass(frozen=True)
class Distribution:
    """Who embeds, and with what.

    Parameters
    ----------
    workers : Workers
        Processes that take calls.
    recipe : EncoderRecipe
        How each of them makes its encoder.
    device_type : str
        ``"cuda"`` if they have such devices.
    n_jobs : int
        Threads that read and preprocess ahead, in each worker.
    """

    workers: Workers
    recipe: EncoderRecipe
    device_type: str = "cpu"
    n_jobs: int = 1

    @property
    def n_subjects_per_call(self) -> int:
        """Subjects that go to a worker together."""
        return _SUBJECTS_PER_CALL.get(self.device_type, 1)


def encode_in_workers(
    distribution: Distribution,
    subjects: Iterable[tuple[Tag, Subject]],
    *,
    cache: EmbeddingCache | None = None,
    with_hashes: bool = False,
) -> Generator[tuple[Tag, RemoteOutcome]]:
    """Embed subjects in other processes; a process that dies costs its calls only.

    Parameters
    ----------
    distribution : Distribution
        Who embeds.
    subjects : iterable of (tag, Subject)
        Drawn in this thread as they are needed; the tag comes back.
    cache : EmbeddingCache, optional
        Where embeddings are looked up first and kept, by the workers.
    with_hashes : bool
        Whether to fingerprint the images, which must be paths then.

    Yields
    ------
    tag : object
        Which subject it is.
    outcome : RemoteOutcome
        What became of it, in the order in which they end.

    Raises
    ------
    BrainfeatError
        If a worker cannot make the encoder.
    """
    calls: _Calls[Tag] = _Calls(distribution, cache, with_hashes)
    source = iter(subjects)
    chunks = iter(lambda: tuple(islice(source, distribution.n_subjects_per_call)), ())
    try:
        for chunk in chunks:
            calls.start(chunk)
            while calls.are_enough:
                yield from calls.collect()
        while calls.n_running:
            yield from calls.collect()
    finally:
        calls.cancel()


class _Calls(Generic[Tag]):
    """The calls that are on their way."""

    def __init__(
        self,
        distribution: Distribution,
        cache: EmbeddingCache | None,
        with_hashes: bool,
    ) -> None:
        self._distribution = distribution
        self._options = cache, with_hashes
        self._running: dict[
            Future[list[RemoteOutcome]], Sequence[tuple[Tag, Subject]]
        ] = {}

    @property
    def n_running(self) -> int:
        return len(self._running)

    @property
    def are_enough(self) -> bool:
        most = _CALLS_PER_WORKER * self._distribution.workers.n_workers
        return self.n_running >= most

    def start(self, chunk: Sequence[tuple[Tag, Subject]]) -> None:
        future = self._distribution.workers.submit(
            encode_remotely,
            self._distribution.recipe,
            [subject for _, subject in chunk],
            *self._options,
            self._distribution.n_jobs,
        )
        self._running[future] = chunk

    def collect(self) -> Iterator[tuple[Tag, RemoteOutcome]]:
        done, _ = wait(self._running, return_when=FIRST_COMPLETED)
        suspects: list[tuple[Tag, Subject]] = []
        for future in done:
            chunk = self._running.pop(future)
            try:
                outcomes = future.result()
            except BrainfeatError:
                raise  # no encoder: no other subject would fare better
            except (Exception, CancelledError):
                suspects += chunk
                continue
            for (tag, _), outcome in zip(chunk, outcomes, strict=True):
                yield tag, outcome
        if suspects:
            yield from self._try_alone(suspects)

    def _try_alone(
        self, suspects: list[tuple[Tag, Subject]]
    ) -> Iterator[tuple[Tag, RemoteOutcome]]:
        """Find which subject kills its worker, with nothing else beside it.

        Raises
        ------
        BrainfeatError
            If the worker cannot make the encoder.
        """
        others, _ = wait(self._running)
        for future in others:
            chunk = self._running.pop(future)
            error = future.exception() if not future.cancelled() else CancelledError()
            if error is not None:
                suspects = [*suspects, *chunk]
                continue
            for (tag, _), outcome in zip(chunk, future.result(), strict=True):
                yield tag, outcome
        for tag, subject in suspects:
            self.start([(tag, subject)])
            ((future, _),) = self._running.items()
            wait([future])
            del self._running[future]
            try:
                yield tag, future.result()[0]
            except BrainfeatError:
                raise
            except (Exception, CancelledError) as error:
                yield tag, _lost(error, subject)

    def cancel(self) -> None:
        for future in self._running:
            future.cancel()


def _lost(error: Exception, subject: Subject) -> RemoteOutcome:
    reason = " ".join(f"{type(error).__name__} {error}".split())[:300]
    lost = WorkerError(f"the process that embedded it was lost ({reason}).")
    return RemoteOutcome(
        None, None, RemoteFailure.from_error(add_context(lost, subject))
    )
