"""Embedding in many processes: subjects go out, vectors come back."""

import traceback
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice

from brainfeat.embedding.cache import EmbeddingCache
from brainfeat.embedding.clusters import Workers, claimed_device
from brainfeat.embedding.encoder_spec import EncoderSpec
from brainfeat.embedding.stream import NOTHING_KNOWN, Embedding
from brainfeat.embedding.subject_encoder import SubjectEncoder
from brainfeat.exceptions import BrainfeatError, UntrainedCheckpointWarning, WorkerError
from brainfeat.subjects.failures import add_context
from brainfeat.subjects.subject import Outcome, Subject

__all__ = ["Distribution", "encode_remotely"]

# Calls that wait beside each one that runs, so that no worker is idle.
_CALLS_PER_WORKER = 2
# A GPU is fed several batches a call; on a CPU each subject is a call, so that a
# worker that dies costs no more than that.
_SUBJECTS_PER_CALL = {"cuda": 32}

# An error in parts: its type, message and traceback. Exceptions often cannot be
# pickled, and those with two parents not at all once Dask has registered tblib.
_ErrorParts = tuple[type[Exception], str, str]
# What a worker returns of a subject; neither of both if it was skipped.
_Reply = tuple[Embedding | None, _ErrorParts | None]


@dataclass(frozen=True)
class Distribution:
    """Workers, and the encoder that each of them builds."""

    workers: Workers
    spec: EncoderSpec
    device_type: str = "cpu"
    n_jobs: int = 1  # threads of each worker that read and preprocess

    def stream(
        self,
        subjects: Iterable[Subject],
        *,
        cache: EmbeddingCache | None = None,
        known_sha256: Mapping[str, str | None] = NOTHING_KNOWN,
        previews: bool = False,
    ) -> Generator[Outcome[Embedding]]:
        """Embed subjects as `SubjectEncoder.stream` does, in the order they finish.

        A process that dies costs its calls only. A BrainfeatError is raised if a
        worker cannot make the encoder.
        """
        calls = _Calls(self, cache, known_sha256, previews=previews)
        source = iter(subjects)
        size = _SUBJECTS_PER_CALL.get(self.device_type, 1)
        try:
            for chunk in iter(lambda: tuple(islice(source, size)), ()):
                calls.start(chunk)
                while calls.n_running >= _CALLS_PER_WORKER * self.workers.n_workers:
                    yield from calls.collect()
            while calls.n_running:
                yield from calls.collect()
        finally:
            calls.cancel()


class _Calls:
    """The calls that are running or wait for a worker."""

    def __init__(
        self,
        distribution: Distribution,
        cache: EmbeddingCache | None,
        known_sha256: Mapping[str, str | None],
        *,
        previews: bool,
    ) -> None:
        self._previews = previews
        self._distribution = distribution
        self._cache = cache
        self._known_sha256 = known_sha256
        self._running: dict[Future[list[_Reply]], Sequence[Subject]] = {}

    @property
    def n_running(self) -> int:
        return len(self._running)

    def start(self, chunk: Sequence[Subject]) -> None:
        future = self._distribution.workers.submit(
            encode_remotely,
            self._distribution.spec,
            [subject.for_workers() for subject in chunk],
            self._cache,
            {subject.key: self._known_sha256.get(subject.key) for subject in chunk},
            self._distribution.n_jobs,
            self._previews,
        )
        self._running[future] = chunk

    def collect(self) -> Iterator[Outcome[Embedding]]:
        """Wait for a call to end."""
        done, _ = wait(self._running, return_when=FIRST_COMPLETED)
        suspects: list[Subject] = []
        for future in done:
            chunk = self._running.pop(future)
            try:
                replies = future.result()
            except BrainfeatError:  # no encoder: no other subject would fare better
                raise
            except (Exception, CancelledError):
                suspects += chunk
                continue
            yield from _to_outcomes(chunk, replies)
        if suspects:
            yield from self._try_alone(suspects)

    def _try_alone(self, suspects: list[Subject]) -> Iterator[Outcome[Embedding]]:
        """Find which subject kills its worker, with nothing else running."""
        others, _ = wait(self._running)
        for future in others:
            chunk = self._running.pop(future)
            error = future.exception() if not future.cancelled() else CancelledError()
            if error is not None:
                suspects = [*suspects, *chunk]
                continue
            yield from _to_outcomes(chunk, future.result())
        for subject in suspects:
            self.start([subject])
            ((future, chunk),) = self._running.items()
            wait([future])
            del self._running[future]
            try:
                yield from _to_outcomes(chunk, future.result())
            except BrainfeatError:
                raise
            except (Exception, CancelledError) as error:
                reason = " ".join(f"{type(error).__name__} {error}".split())[:300]
                lost = f"the process that embedded it was lost ({reason})."
                yield Outcome(subject, error=add_context(WorkerError(lost), subject))

    def cancel(self) -> None:
        for future in self._running:
            future.cancel()


def _to_outcomes(
    subjects: Sequence[Subject], replies: Sequence[_Reply]
) -> Iterator[Outcome[Embedding]]:
    for subject, (result, parts) in zip(subjects, replies, strict=True):
        yield Outcome(subject, result, parts and _join_error(*parts))


def encode_remotely(
    spec: EncoderSpec,
    subjects: Sequence[Subject],
    cache: EmbeddingCache | None = None,
    known_sha256: Mapping[str, str | None] = NOTHING_KNOWN,
    n_jobs: int = 1,
    previews: bool = False,
) -> list[_Reply]:
    """Embed subjects in this process, whose encoder stays loaded."""
    device = claimed_device()
    encoder = _kept_encoder(replace(spec, device=device) if device else spec)
    outcomes = encoder.stream(
        subjects,
        n_jobs=n_jobs,
        cache=cache,
        known_sha256=known_sha256,
        previews=previews,
    )
    return [
        (outcome.result, None if outcome.error is None else _split_error(outcome.error))
        for outcome in outcomes
    ]


@lru_cache(maxsize=2)
def _kept_encoder(spec: EncoderSpec) -> SubjectEncoder:
    with warnings.catch_warnings():
        # The process that sent the spec has warned.
        warnings.simplefilter("ignore", UntrainedCheckpointWarning)
        return spec.build()


def _split_error(error: Exception) -> _ErrorParts:
    text = "".join(traceback.format_exception(error))
    if isinstance(error, BrainfeatError):
        return type(error), str(error), text
    return RuntimeError, f"{type(error).__name__}: {error}", text


def _join_error(kind: type[Exception], message: str, text: str) -> Exception:
    error = kind(message)
    error.add_note(f"In the worker:\n{text}")
    return error
