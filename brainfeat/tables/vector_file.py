"""The embedding of one image as a NumPy file."""

__all__ = ["embed_to_vector"]

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brainfeat.embedding.cache import EmbeddingCache
from brainfeat.embedding.stream import Embedding
from brainfeat.embedding.subject_encoder import SubjectEncoder
from brainfeat.exceptions import TableError
from brainfeat.io.atomic import atomic_write
from brainfeat.subjects.doubts import Doubts
from brainfeat.subjects.subject import Outcome, Subject
from brainfeat.tables.runs import RunOptions, RunSummary


def embed_to_vector(
    subjects: Sequence[Subject],
    output: Path,
    encoder: SubjectEncoder,
    *,
    options: RunOptions,
    on_event: Callable[[Outcome[Any]], None],
) -> RunSummary:
    """Write the float32 vector of the one subject; none if its image was unusable."""
    if output.exists() and not options.overwrite:
        raise TableError(f"{output}: exists; replace it with --overwrite.")
    start = time.perf_counter()
    cache = EmbeddingCache(options.cache) if options.cache else None
    doubts = Doubts(strict=options.strict)
    n_done = 0
    for streamed in encoder.stream(subjects, cache=cache):
        outcome = _check_quality(streamed, doubts)
        on_event(outcome)
        if outcome.result is not None:
            n_done += 1
            with atomic_write(output) as partial, partial.open("wb") as file:
                np.save(file, outcome.result.vector.astype(np.float32))
    doubts.report()
    return RunSummary(
        done=n_done,
        skipped=0,
        failed=1 - n_done,
        volumes=n_done,
        seconds=time.perf_counter() - start,
        output=output if n_done else None,
        failures=None,
    )


def _check_quality(outcome: Outcome[Embedding], doubts: Doubts) -> Outcome[Embedding]:
    if outcome.result is None:
        return outcome
    error = doubts.note(outcome.subject, outcome.result.quality)
    return outcome if error is None else Outcome(outcome.subject, error=error)
