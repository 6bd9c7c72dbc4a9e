"""Embedding many subjects into a table: what fails is noted, the rest goes on."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from brainfeat import __version__
from brainfeat.estimators._cache import EmbeddingCache
from brainfeat.estimators._encoding import Outcome, SubjectEncoder
from brainfeat.estimators._subjects import Subject
from brainfeat.exceptions import BrainfeatError
from brainfeat.failures import FailedRow, failures_path, write_failures
from brainfeat.io import hash_images
from brainfeat.tables import EmbeddingTable, TableRow

__all__ = [
    "RunEvent",
    "RunOptions",
    "RunSummary",
    "describe_encoder",
    "embed_to_table",
    "hash_images",
]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run goes, not what it computes.

    Parameters
    ----------
    n_jobs : int
        Threads that read and preprocess ahead of the encoder.
    cache : path-like, optional
        Folder that keeps embeddings, whatever table they go to.
    overwrite : bool
        Replace a table that is there instead of going on with it.
    stop_on_first_error : bool
        End the run at the first subject that fails; what is done is written.
    """

    n_jobs: int = 1
    cache: str | os.PathLike[str] | None = None
    overwrite: bool = False
    stop_on_first_error: bool = False


class RunEvent(NamedTuple):
    """What became of one row.

    Attributes
    ----------
    row : TableRow
        The row.
    status : {"done", "skipped", "failed"}
        Skipped rows were in the table already.
    failure : FailedRow or None
        Why it failed.
    """

    row: TableRow
    status: Literal["done", "skipped", "failed"]
    failure: FailedRow | None


class RunSummary(NamedTuple):
    """What became of all rows.

    Attributes
    ----------
    done, skipped, failed : int
        Numbers of rows; skipped ones were in the table already.
    volumes : int
        Images of the rows that are done: one row may have several modalities.
    seconds : float
        Time that the run took.
    output : Path or None
        The table, None if it would have no row.
    failures : Path or None
        Table of what failed, None if nothing did.
    """

    done: int
    skipped: int
    failed: int
    volumes: int
    seconds: float
    output: Path | None
    failures: Path | None


def embed_to_table(
    rows: Sequence[TableRow],
    output: str | os.PathLike[str],
    encoder: SubjectEncoder,
    *,
    provenance: Mapping[str, Any],
    options: RunOptions | None = None,
    problems: Sequence[FailedRow] = (),
    on_event: Callable[[RunEvent], None] | None = None,
) -> RunSummary:
    """Embed rows one after the other, in constant memory.

    Each row is safe once it is done: a run that is killed goes on where it was
    when it is started again. A row whose images did not change since it was
    embedded is skipped.

    Parameters
    ----------
    rows : sequence of TableRow
        What to embed, in the order of the table.
    output : path-like
        Table to create or to go on with: ``.parquet``, ``.csv`` or ``.tsv``.
    encoder : SubjectEncoder
        Checkpoint, preprocessing and pooling.
    provenance : mapping of str to JSON values
        From `describe_encoder`.
    options : RunOptions, optional
        How the run goes.
    problems : sequence of FailedRow
        Inputs that failed before: they are listed with what fails now.
    on_event : callable, optional
        Called with a `RunEvent` for each row, in the order in which they end.

    Returns
    -------
    RunSummary
        Counts, and where the files are.

    Raises
    ------
    TableError
        If the table comes from another encoder, another process is writing it, or
        the disk is full.
    """
    options = options or RunOptions()
    start = time.perf_counter()
    with EmbeddingTable(output, provenance, overwrite=options.overwrite) as table:
        run = _Run(rows, table, options, on_event or _ignore, list(problems))
        run.embed(encoder)
        n_rows = table.finish(rows)
    return RunSummary(
        done=run.counts["done"],
        skipped=run.counts["skipped"],
        failed=len(run.failures),
        volumes=run.n_volumes,
        seconds=time.perf_counter() - start,
        output=Path(output) if n_rows else None,
        failures=write_failures(failures_path(output), run.failures),
    )


def describe_encoder(encoder: SubjectEncoder, checkpoint: str) -> dict[str, Any]:
    """Say what made a table, as it is stored with the table.

    Parameters
    ----------
    encoder : SubjectEncoder
        Checkpoint, preprocessing and pooling.
    checkpoint : str
        Name by which the checkpoint was asked for.

    Returns
    -------
    dict
        JSON values.
    """
    return {
        "brainfeat_version": __version__,
        "checkpoint": checkpoint,
        "checkpoint_sha256": encoder.checkpoint.fingerprint,
        "trained": encoder.checkpoint.config.trained,
        "modalities": list(encoder.modalities),
        "pooling": encoder.pooling,
        "n_features": encoder.n_features,
        "preprocessing_sha256": encoder.preprocessor.fingerprint,
        "preprocessing": encoder.preprocessor.to_dict(),
    }


@dataclass
class _Run:
    """One pass over the rows."""

    rows: Sequence[TableRow]
    table: EmbeddingTable
    options: RunOptions
    on_event: Callable[[RunEvent], None]
    failures: list[FailedRow]
    n_volumes: int = 0
    counts: dict[str, int] = field(
        default_factory=lambda: {"done": 0, "skipped": 0, "failed": 0}
    )

    def embed(self, encoder: SubjectEncoder) -> None:
        # Rows on their way through the encoder, with what their images hold.
        waiting: deque[tuple[TableRow, str]] = deque()
        cache = EmbeddingCache(self.options.cache) if self.options.cache else None
        outcomes = encoder.stream(
            self._pending(waiting), n_jobs=self.options.n_jobs, cache=cache
        )
        for outcome in outcomes:
            self._keep(outcome, *waiting.popleft())
            if self._must_stop():
                break

    def _pending(self, waiting: deque[tuple[TableRow, str]]) -> Iterator[Subject]:
        for row in self.rows:
            if self._must_stop():
                return
            try:
                input_sha256 = hash_images(row.images)
            except BrainfeatError as error:
                self._fail(row, error)
                continue
            if self.table.has_row(row, input_sha256):
                self._tell(row, "skipped")
                continue
            waiting.append((row, input_sha256))
            yield Subject(row.image, row.images)

    def _keep(self, outcome: Outcome, row: TableRow, input_sha256: str) -> None:
        if outcome.vector is None:
            self._fail(row, outcome.error or BrainfeatError("no embedding."))
            return
        self.table.append(row, input_sha256, outcome.vector)
        self.n_volumes += len(row.images)
        self._tell(row, "done")

    def _fail(self, row: TableRow, error: Exception) -> None:
        failure = FailedRow.from_error(row.participant_id, row.image, error)
        self.failures.append(failure)
        self._tell(row, "failed", failure)

    def _tell(
        self,
        row: TableRow,
        status: Literal["done", "skipped", "failed"],
        failure: FailedRow | None = None,
    ) -> None:
        self.counts[status] += 1
        self.on_event(RunEvent(row, status, failure))

    def _must_stop(self) -> bool:
        return self.options.stop_on_first_error and bool(self.failures)


def _ignore(_event: RunEvent) -> None:
    """Tell nobody."""
