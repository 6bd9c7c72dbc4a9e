"""Subjects through reading threads and a device: in order, in constant memory."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TypeAlias, TypeVar

import torch

from brainfeat.models.threads import map_in_threads
from brainfeat.subjects.failures import add_context
from brainfeat.subjects.subject import Outcome, Subject
from brainfeat.workers import Prefetch

__all__ = ["stream_outcomes"]

# Outcomes that may wait for a batch to fill.
_LONGEST_QUEUE = 256

Input = TypeVar("Input")
Result = TypeVar("Result")
_Item: TypeAlias = tuple[Subject, Input | Outcome[Result]]


def stream_outcomes(
    subjects: Iterable[Subject],
    prepare: Callable[[Subject], Input | Outcome[Result]],
    encode: Callable[[Sequence[Input]], Iterable[Result | Exception]],
    *,
    device: torch.device,
    n_jobs: int,
    batch_size: Callable[[], int],
) -> Generator[Outcome[Result]]:
    """Prepare subjects ahead of the encoder in ``n_jobs`` threads, and encode batches.

    On a CPU several threads encode, each a batch. ``prepare`` may return the outcome
    itself; ``encode`` returns a result or an error for each of a batch. An error that
    either raises is the outcome of its subjects, and does not stop the others.
    """

    def try_to_prepare(subject: Subject) -> _Item[Input, Result]:
        try:
            return subject, prepare(subject)
        except Exception as error:  # whatever a damaged file makes a library raise
            return subject, Outcome(subject, error=add_context(error, subject))

    def finish(batch: Sequence[_Item[Input, Result]]) -> list[Outcome[Result]]:
        inputs = [item for _, item in batch if not isinstance(item, Outcome)]
        results: Iterator[Result | Exception]
        try:
            results = iter([*encode(inputs)] if inputs else [])
        except Exception as error:  # of a device that fails, or is too small for one
            results = iter([error] * len(inputs))
        return [
            item if isinstance(item, Outcome) else _to_outcome(subject, next(results))
            for subject, item in batch
        ]

    n_ahead = n_jobs + batch_size()
    reading = Prefetch(try_to_prepare, subjects, n_threads=n_jobs, n_ahead=n_ahead)
    with reading as prepared:
        batches: Iterator[list[_Item[Input, Result]]] = _batches(prepared, batch_size)
        encoding = map_in_threads(finish, batches, device=device, readers=prepared)
        with encoding as finished:
            for outcomes in finished:
                yield from outcomes


def _to_outcome(subject: Subject, result: Result | Exception) -> Outcome[Result]:
    if isinstance(result, Exception):
        return Outcome(subject, error=add_context(result, subject))
    return Outcome(subject, result)


def _batches(
    items: Iterable[_Item[Input, Result]], batch_size: Callable[[], int]
) -> Iterator[list[_Item[Input, Result]]]:
    """Split a stream where a batch is full, or where none has begun."""
    waiting: list[_Item[Input, Result]] = []
    n_prepared = 0
    for subject, item in items:
        waiting.append((subject, item))
        n_prepared += not isinstance(item, Outcome)
        is_long = len(waiting) >= _LONGEST_QUEUE
        # More than a batch, where batches have become smaller meanwhile.
        if not 0 < n_prepared < batch_size() or is_long:
            yield waiting
            waiting, n_prepared = [], 0
    if waiting:
        yield waiting
