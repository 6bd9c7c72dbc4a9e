"""Embedding many subjects into a table: what fails is noted, the rest goes on."""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from brainfeat.embedding.cache import EmbeddingCache
from brainfeat.embedding.distribution import Distribution, encode_in_workers
from brainfeat.embedding.subject_encoder import SubjectEncoder
from brainfeat.exceptions import BrainfeatError, InputError, VolumeError
from brainfeat.subjects.failures import (
    failures_path,
    outdated_by,
    release_frames,
    write_failures,
)
from brainfeat.subjects.subject import Outcome, Subject
from brainfeat.tables.embedding_table import EmbeddingTable
from brainfeat.tables.formats import Layout

__all__ = [
    "RunOptions",
    "RunSummary",
    "embed_rows",
    "embed_to_table",
]


_LOGGER = logging.getLogger(__name__)


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
        Begin no more subjects once one has failed, or an input is no row; those
        that are begun are ended and written.
    layout : {"wide", "list"}
        A column a feature, or one column of lists.
    """

    n_jobs: int = 1
    cache: str | os.PathLike[str] | None = None
    overwrite: bool = False
    stop_on_first_error: bool = False
    layout: Layout = "wide"


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
        The table, or the folder of derivatives; None if it would have no row.
    failures : Path or None
        Table of what failed, in this run or in one before that had other rows; None
        if nothing did.
    """

    done: int
    skipped: int
    failed: int
    volumes: int
    seconds: float
    output: Path | None
    failures: Path | None


class _RowSink(Protocol):
    """Where embedded rows go: a table, or a file a row.

    Attributes
    ----------
    output : Path
        What the user asked for; failures are listed beside it.
    working_folder : Path
        For files that are not whole yet, on the same disk.
    """

    output: Path
    working_folder: Path

    def known_sha256(self, row: Subject) -> str | None:
        """Say what the images of a row held when it was embedded.

        Parameters
        ----------
        row : Subject
            The row.

        Returns
        -------
        str or None
            Fingerprint of its images; None if it is new.

        Raises
        ------
        InputError
            If the row cannot be kept.
        """

    def append(
        self, row: Subject, input_sha256: str, vector: NDArray[np.float32]
    ) -> None:
        """Keep the embedding of a row; a killed process loses nothing of it.

        Parameters
        ----------
        row : Subject
            The row.
        input_sha256 : str
            Fingerprint of its images.
        vector : ndarray of shape (n_features,)
            Its embedding.
        """

    def finish(self, rows: Sequence[Subject]) -> int:
        """Make the output whole.

        Parameters
        ----------
        rows : sequence of Subject
            Everything that this run was asked for.

        Returns
        -------
        int
            Number of rows that it has.
        """


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
    """Embed rows one after the other, in constant memory.

    Each row is safe once it is done: a run that is killed goes on where it was
    when it is started again. A row whose images did not change since it was
    embedded is skipped.

    Parameters
    ----------
    rows : sequence of Subject
        What to embed, in the order of the table.
    output : path-like
        Table to create or to go on with: ``.parquet``, ``.csv`` or ``.tsv``.
    encoder : SubjectEncoder
        Checkpoint, preprocessing and pooling.
    provenance : mapping of str to JSON values
        From `describe_encoder`.
    options : RunOptions, optional
        How the run goes.
    problems : sequence of Outcome
        Inputs that failed before: they are listed with what fails now.
    on_event : callable, optional
        Called with an `Outcome` for each row, in the order in which they end.
    distribution : Distribution, optional
        Other processes that embed in place of this one.

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
    with EmbeddingTable(
        output, provenance, overwrite=options.overwrite, layout=options.layout
    ) as table:
        if options.overwrite:
            # The failures of a table go with it.
            failures_path(output).unlink(missing_ok=True)
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
    """Embed rows into anything that keeps them.

    Parameters
    ----------
    rows : sequence of Subject
        What to embed.
    sink : EmbeddingTable or DerivativesFolder
        Where rows go, and which it has.
    encoder : SubjectEncoder
        As for `embed_to_table`, like what follows.
    options : RunOptions
        How the run goes.
    problems : sequence of Outcome
        Inputs that failed before.
    on_event : callable, optional
        Called with an `Outcome` for each row.
    distribution : Distribution, optional
        Other processes that embed.

    Returns
    -------
    RunSummary
        Counts, and where the files are.

    Raises
    ------
    TableError
        If the disk is full.
    """
    start = time.perf_counter()
    run = _Run(rows, sink, encoder, options, on_event or _ignore, list(problems))
    if distribution is None:
        run.embed()
    else:
        run.embed_elsewhere(distribution)
    failures = write_failures(
        failures_path(sink.output),
        run.failures,
        tracebacks=True,
        working_folder=sink.working_folder,
        is_outdated=outdated_by(rows),
    )
    n_rows = sink.finish(rows)
    return RunSummary(
        done=run.counts["done"],
        skipped=run.counts["skipped"],
        failed=len(run.failures),
        volumes=run.n_volumes,
        seconds=time.perf_counter() - start,
        output=sink.output if n_rows else None,
        failures=failures,
    )


@dataclass
class _Run:
    """One pass over the rows."""

    rows: Sequence[Subject]
    table: _RowSink
    encoder: SubjectEncoder
    options: RunOptions
    on_event: Callable[[Outcome[Any]], None]
    failures: list[Outcome[Any]]
    n_volumes: int = 0
    counts: dict[str, int] = field(
        default_factory=lambda: {"done": 0, "skipped": 0, "failed": 0}
    )

    def embed(self) -> None:
        # Rows on their way through the encoder, with what their images hold.
        waiting: deque[tuple[Subject, str]] = deque()
        outcomes = self.encoder.stream(
            self._pending(waiting), n_jobs=self.options.n_jobs, cache=self._cache
        )
        with closing(outcomes):
            for outcome in outcomes:
                row, input_sha256 = waiting.popleft()
                self._keep(row, input_sha256, outcome.vector, outcome.error)

    def embed_elsewhere(self, distribution: Distribution) -> None:
        """Embed in other processes, which also read the images for their hash."""
        outcomes = encode_in_workers(
            distribution, self._unknown(), cache=self._cache, with_hashes=True
        )
        with closing(outcomes):
            for row, outcome in outcomes:
                self._keep(
                    row, outcome.input_sha256 or "", outcome.vector, outcome.error
                )

    @property
    def _cache(self) -> EmbeddingCache | None:
        return EmbeddingCache(self.options.cache) if self.options.cache else None

    def _pending(self, waiting: deque[tuple[Subject, str]]) -> Iterator[Subject]:
        for row in self.rows:
            if self._must_stop():
                return
            try:
                input_sha256 = self._hash(row)
                known = self.table.known_sha256(row)
            except (InputError, VolumeError) as error:
                self._fail(row, error)
                continue
            if known == input_sha256:
                self._tell(Outcome(row))
                continue
            waiting.append((row, input_sha256))
            yield row

    def _unknown(self) -> Iterator[tuple[Subject, Subject]]:
        for row in self.rows:
            if self._must_stop():
                return
            try:
                known = self.table.known_sha256(row)
                is_done = known is not None and known == self._hash(row)
            except (InputError, VolumeError) as error:
                self._fail(row, error)
                continue
            if is_done:
                self._tell(Outcome(row))
            else:
                yield row, row

    def _hash(self, row: Subject) -> str:
        return self.encoder.hash_inputs(row.paths)

    def _keep(
        self,
        row: Subject,
        input_sha256: str,
        vector: NDArray[np.float32] | None,
        error: Exception | None,
    ) -> None:
        if vector is None:
            self._fail(row, error or BrainfeatError("no embedding."))
            return
        self.table.append(row, input_sha256, vector)
        self.n_volumes += len(row.images)
        self._tell(Outcome(row, vector))

    def _fail(self, row: Subject, error: Exception) -> None:
        _LOGGER.debug("traceback:", exc_info=error)
        release_frames(error)
        outcome: Outcome[Any] = Outcome(row, error=error)
        self.failures.append(outcome)
        self._tell(outcome)

    def _tell(self, outcome: Outcome[Any]) -> None:
        self.counts[outcome.status] += 1
        self.on_event(outcome)

    def _must_stop(self) -> bool:
        # No more rows are drawn then, and those on their way are kept.
        return self.options.stop_on_first_error and bool(self.failures)


def _ignore(_outcome: Outcome[Any]) -> None:
    """Tell nobody."""
