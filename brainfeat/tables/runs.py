"""Embed many subjects into a table; failures are listed and do not stop the run."""

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from brainfeat.embedding.cache import EmbeddingCache
from brainfeat.embedding.distribution import Distribution
from brainfeat.embedding.stream import Embedding
from brainfeat.embedding.subject_encoder import SubjectEncoder
from brainfeat.exceptions import InputError
from brainfeat.subjects.doubts import Doubts
from brainfeat.subjects.failures import (
    failures_path,
    outdated_by,
    release_frames,
    write_failures,
)
from brainfeat.subjects.subject import Outcome, Subject
from brainfeat.tables.derivatives import DerivativesFolder
from brainfeat.tables.embedding_table import EmbeddingTable

__all__ = ["RunOptions", "RunSummary", "embed_rows", "embed_to_table"]

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options that change how a run proceeds, not what it computes.

    With ``stop_on_first_error``, no more subjects begin once one has failed, or an
    input cannot be read; subjects in progress are finished and written. With
    ``strict``, a doubt about a subject's brain is a failure.
    """

    n_jobs: int = 1  # threads that read and preprocess ahead of the encoder
    cache: str | os.PathLike[str] | None = None  # keeps embeddings of any table
    overwrite: bool = False  # replaces an existing table instead of resuming it
    stop_on_first_error: bool = False
    strict: bool = False
    previews: bool = False  # keeps a picture of each row beside the table


class RunSummary(NamedTuple):
    """Counts of rows, and files of a run."""

    done: int
    skipped: int  # were in the table already
    failed: int
    volumes: int  # images of the rows that are done, which may have several
    seconds: float
    output: Path | None  # table or folder of derivatives; None if it would have no row
    failures: Path | None  # table of failures, also of earlier runs with other rows
    not_begun: int = 0  # when a run stopped at the first error


# Where rows go: to a table, or to a file each.
_RowSink = EmbeddingTable | DerivativesFolder


def embed_to_table(
    rows: Sequence[Subject],
    output: str | os.PathLike[str],
    encoder: SubjectEncoder,
    *,
    provenance: Mapping[str, Any],
    options: RunOptions | None = None,
    problems: Sequence[Outcome[Any]] = (),
    on_event: Callable[[Outcome[Any]], None] | None = None,
    distribution: Distribution | None = None,
) -> RunSummary:
    """Embed rows into a ``.parquet``, ``.csv`` or ``.tsv`` table, as `embed_rows` does.

    ``provenance`` is that of `describe_encoder`. Rows of another encoder, or a table
    that another process is writing, raise a `TableError`.
    """
    options = options or RunOptions()
    with EmbeddingTable(output, provenance, overwrite=options.overwrite) as table:
        if options.overwrite:
            # The failures of a table are replaced with it.
            failures_path(output).unlink(missing_ok=True)
            # Of another preprocessing, perhaps; rows from a cache draw none.
            table.previews.clear()
        return embed_rows(
            rows,
            table,
            encoder,
            options=options,
            problems=problems,
            on_event=on_event,
            distribution=distribution,
        )


def embed_rows(
    rows: Sequence[Subject],
    sink: _RowSink,
    encoder: SubjectEncoder,
    *,
    options: RunOptions,
    problems: Sequence[Outcome[Any]] = (),
    on_event: Callable[[Outcome[Any]], None] | None = None,
    distribution: Distribution | None = None,
) -> RunSummary:
    """Embed rows into a table or a folder of derivatives, in constant memory.

    Each row is safe once it is done: a run that was killed resumes when it is started
    again. A row is skipped if its images are unchanged since it was embedded.
    ``problems``, inputs that could not be read, are listed with the failures;
    ``on_event`` is called with each outcome, in the order in which rows finish;
    ``distribution`` embeds in other processes.
    """
    start = time.perf_counter()
    run = _Run(sink, on_event, [*problems], strict=options.strict)
    cache = EmbeddingCache(options.cache) if options.cache else None
    begun = run.begin(rows, stop_on_first_error=options.stop_on_first_error)
    settings: dict[str, Any] = {
        "cache": cache,
        "known_sha256": run.known_sha256,
    }
    if options.previews and isinstance(sink, EmbeddingTable):
        settings["previews"] = True
    if distribution is None:
        outcomes = encoder.stream(begun, n_jobs=options.n_jobs, **settings)
    else:
        outcomes = distribution.stream(begun, **settings)
    with closing(outcomes):
        for outcome in outcomes:
            run.record(outcome)
    failures = write_failures(
        failures_path(sink.output),
        run.failures,
        tracebacks=True,
        working_folder=sink.working_folder,
        is_outdated=outdated_by(rows),
    )
    volumes = run.counts["volumes"]
    if volumes and isinstance(sink, EmbeddingTable):
        sink.record_speed((time.perf_counter() - start) / volumes)
    n_rows = sink.finish(rows)
    run.doubts.report(" (column qc_doubt; --strict fails them)")
    n_ended = run.counts["done"] + run.counts["skipped"] + len(run.failures)
    return RunSummary(
        done=run.counts["done"],
        skipped=run.counts["skipped"],
        failed=len(run.failures),
        volumes=run.counts["volumes"],
        seconds=time.perf_counter() - start,
        output=sink.output if n_rows else None,
        failures=failures,
        not_begun=len(rows) + len(problems) - n_ended,
    )


class _Run:
    """What a run counts and keeps of its outcomes."""

    def __init__(
        self,
        sink: _RowSink,
        on_event: Callable[[Outcome[Any]], None] | None,
        failures: list[Outcome[Any]],
        *,
        strict: bool,
    ) -> None:
        self._sink = sink
        self._on_event = on_event
        self.failures = failures
        self.doubts = Doubts(strict=strict)
        self._strict = strict
        self.counts: Counter[str] = Counter()
        self.known_sha256: dict[str, str | None] = {}  # of begun rows, by key

    def begin(
        self, rows: Sequence[Subject], *, stop_on_first_error: bool
    ) -> Iterator[Subject]:
        """Yield rows to embed, drawn while others are in progress."""
        for row in rows:
            if stop_on_first_error and self.failures:
                return
            try:
                known = self._sink.known_sha256(row)
                # Embedded again: a file may have been mended.
                is_usable = not (self._strict and self._sink.is_in_doubt(row))
                self.known_sha256[row.key] = known if is_usable else None
            except InputError as error:
                self.record(Outcome(row, error=error))
                continue
            yield row

    def record(self, outcome: Outcome[Embedding]) -> None:
        """Keep an embedding or a failure, count it, and report it."""
        outcome = self._check_quality(outcome)
        subject, result = outcome.subject, outcome.result
        self.known_sha256.pop(subject.key, None)
        self.counts[outcome.status] += 1
        if result is not None:
            input_sha256 = str(result.input_sha256)
            measured = result.voxel_mm, result.quality
            if result.preview is not None and isinstance(self._sink, EmbeddingTable):
                # Before the row, which is not embedded again once it is kept.
                self._sink.previews.save(input_sha256, result.preview)
            self._sink.append(subject, input_sha256, result.vector, *measured)
            self.counts["volumes"] += len(subject.images)
        if outcome.error is not None:
            _LOGGER.debug("traceback:", exc_info=outcome.error)
            release_frames(outcome.error)
            self.failures.append(outcome)
        if self._on_event is not None:
            self._on_event(outcome)

    def _check_quality(self, outcome: Outcome[Embedding]) -> Outcome[Embedding]:
        """Note a doubt, or make it a failure of the row."""
        if outcome.result is None:
            return outcome
        error = self.doubts.note(outcome.subject, outcome.result.quality)
        if error is None:
            return outcome
        self._sink.drop(outcome.subject)
        return Outcome(outcome.subject, error=error)
