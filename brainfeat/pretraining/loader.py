"""Views of the steps of a run, made ahead of their use on a GPU."""

__all__ = ["Loaded", "view_batches"]

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from typing import Any

import torch

from brainfeat.pretraining.source import SubjectBatch
from brainfeat.pretraining.views import DrawnViews, ViewGroup, Views
from brainfeat.workers import Prefetch

_N_AHEAD = 2  # steps whose views wait on the GPU
_MAX_READERS = 8

# The subjects of each part of a step, and what is cut out of them.
Loaded = list[tuple[SubjectBatch, DrawnViews]]
_OnDevice = tuple[list[Views], Any]  # and the event of their stream


@contextmanager
def view_batches(
    read: Callable[[int], Loaded],
    cut: Callable[[Loaded], list[Views]],
    steps: range,
    device: torch.device,
    *,
    can_read_in_threads: bool,
) -> Iterator[Iterable[list[Views]]]:
    """Give the views of each step; on a GPU, threads read and a stream cuts ahead.

    A CPU's products need all of its threads: there, nothing is done ahead.
    """
    if device.type != "cuda":
        yield (cut(read(step)) for step in steps)
        return
    n_readers = _count_readers() if can_read_in_threads else 1
    stream = torch.cuda.Stream(device)

    def cut_on_stream(loaded: Loaded) -> _OnDevice:
        # The device of a new thread is the first one, whatever that of the process.
        with torch.cuda.device(device), torch.cuda.stream(stream):
            views = cut(loaded)
            return views, stream.record_event()

    with ExitStack() as stack:
        batches = stack.enter_context(
            Prefetch(read, steps, n_threads=n_readers, n_ahead=n_readers + 1)
        )
        ready = stack.enter_context(
            Prefetch(cut_on_stream, batches, n_threads=1, n_ahead=_N_AHEAD)
        )
        yield (_hand_over(*item, device) for item in ready)


def _count_readers() -> int:
    """Share the processors of the machine between its ranks."""
    n_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(_MAX_READERS, (os.cpu_count() or 1) // n_ranks - 1))


def _hand_over(views: list[Views], event: Any, device: torch.device) -> list[Views]:
    """Let the stream of the training wait for views, and own their memory."""
    current = torch.cuda.current_stream(device)
    current.wait_event(event)
    for part in views:
        for group in (part.global_views, part.local_views, part.reference):
            for item in fields(ViewGroup) if group is not None else ():
                value = getattr(group, item.name)
                if value is not None:
                    value.record_stream(current)
    return views
