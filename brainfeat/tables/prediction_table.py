"""Tables of what a fine-tuned model predicts: a row a subject."""

__all__ = ["PredictionTable", "predict_to_table"]

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from brainfeat.exceptions import TableError
from brainfeat.finetuning.classifier import BrainFoundClassifier
from brainfeat.finetuning.estimator import FineTunedEncoder
from brainfeat.finetuning.prediction import Prediction
from brainfeat.finetuning.regressor import BrainFoundRegressor
from brainfeat.io.atomic import naming_output
from brainfeat.io.json_files import format_json, read_json_object
from brainfeat.subjects.doubts import Doubts
from brainfeat.subjects.failures import (
    failures_path,
    outdated_by,
    release_frames,
    write_failures,
)
from brainfeat.subjects.subject import (
    Outcome,
    Subject,
    is_reserved,
    join_modalities,
)
from brainfeat.tables.columns import quality_texts
from brainfeat.tables.delimited import sidecar_path
from brainfeat.tables.embedding_table import working_path
from brainfeat.tables.formats import find_format
from brainfeat.tables.journal import RowJournal
from brainfeat.tables.runs import RunOptions, RunSummary

_MODEL = "model_sha256"
Record = dict[str, str | None]


class PredictionTable:
    """A table that is predicted row by row and replaced in one step.

    Rows go to a journal in a hidden folder beside the table: a run that was killed
    resumes with the same model.
    """

    def __init__(
        self, output: Path, provenance: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        self.output, self._format = output, find_format(output)
        self._provenance = dict(provenance)
        if output.is_dir():
            raise TableError(f"{output}: expected a file name, got a folder.")
        self._check_is_ours(overwrite=overwrite)
        n_features = int(provenance["n_features"])
        self.working_folder = working_path(output)
        self._journal = RowJournal(self.working_folder, n_features)
        identity = {_MODEL: provenance[_MODEL]}
        is_other = self._journal.header != identity
        self._journal.begin(identity, discard=is_other or overwrite)

    def known_sha256(self, row: Subject) -> str | None:
        """Return the hash of the images of a row that a killed run predicted."""
        return self._journal.input_sha256(row.key)

    def append(self, row: Subject, result: Prediction) -> None:
        """Store the scores of a row; they survive a kill from then on."""
        scores = result.scores.astype(np.float32)
        measured = result.voxel_mm, result.quality
        self._journal.append(row.key, str(result.input_sha256), scores, *measured)

    def finish(self, rows: Sequence[Subject], estimator: FineTunedEncoder) -> int:
        """Write the predicted ones of ``rows``, and return their number."""
        done = [row for row in rows if self.known_sha256(row) is not None]
        if done:
            scores = np.stack([self._journal.read(row.key) for row in done])
            predicted, vectors = _decide(estimator, scores.astype(np.float64))
            records = [
                self._describe(row, text)
                for row, text in zip(done, predicted, strict=True)
            ]
            with naming_output(self.output, "; the rows are kept for the next run"):
                self._write(records, vectors)
        self._journal.close(remove=True)
        return len(done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._journal.close(remove=not self._journal.has_rows)

    def _check_is_ours(self, *, overwrite: bool) -> None:
        """Raise TableError rather than replace what another program wrote."""
        sidecar = sidecar_path(self.output)
        exists = self.output.exists() or sidecar.exists()
        is_ours = _MODEL in (read_json_object(sidecar) or {})
        if exists and not is_ours and not (overwrite and not sidecar.exists()):
            raise TableError(
                f"{self.output}: exists and is no table of predictions; choose another "
                "output name."
            )

    def _describe(self, row: Subject, predicted: str) -> Record:
        modalities = self._provenance["modalities"]
        return {
            "participant_id": row.participant_id,
            "session_id": row.session_id,
            "image": row.image,
            **{m: row.paths.get(m) for m in modalities},
            "modalities": join_modalities(row.paths, modalities),
            "qc_voxel_mm": self._journal.voxel_mm(row.key),
            **quality_texts(self._journal.quality(row.key)),
            "input_sha256": self.known_sha256(row),
            **{n: v for n, v in row.metadata.items() if not _is_own(n, modalities)},
            "prediction": predicted,
        }

    def _write(
        self, records: Sequence[Record], vectors: Iterator[NDArray[np.float32]]
    ) -> None:
        names = dict.fromkeys(name for record in records for name in record)
        del names["prediction"]
        columns = {n: [r.get(n) for r in records] for n in [*names, "prediction"]}
        partial = self.working_folder / f"table{self.output.suffix}"
        sidecar = self.working_folder / "table.json"
        self._format.write(partial, columns, vectors, self._provenance)
        sidecar.write_text(format_json(self._provenance), encoding="utf-8")
        sidecar.replace(sidecar_path(self.output))
        partial.replace(self.output)


def predict_to_table(
    rows: Sequence[Subject],
    output: str | os.PathLike[str],
    estimator: FineTunedEncoder,
    *,
    provenance: Mapping[str, Any],
    options: RunOptions | None = None,
    problems: Sequence[Outcome[Any]] = (),
    on_event: Callable[[Outcome[Any]], None] = lambda _: None,
) -> RunSummary:
    """Predict rows into a ``.parquet``, ``.csv`` or ``.tsv`` table.

    ``provenance`` is that of the model's folder. Rows that fail are listed beside it.
    """
    start, failures, counts = time.perf_counter(), [*problems], Counter[str]()
    options, output = options or RunOptions(), Path(output)
    doubts = Doubts(strict=options.strict)
    predictor = estimator.build_predictor()
    described = {**provenance, **_describe_outputs(estimator)}
    with PredictionTable(output, described, overwrite=options.overwrite) as table:
        stream = predictor.stream(
            rows, n_jobs=options.n_jobs, known_sha256=table.known_sha256
        )
        with closing(stream):
            for outcome in (_check(outcome, doubts) for outcome in stream):
                counts[outcome.status] += 1
                if outcome.result is not None:
                    table.append(outcome.subject, outcome.result)
                if outcome.error is not None:
                    release_frames(outcome.error)
                    failures.append(outcome)
                on_event(outcome)
        listed = write_failures(
            failures_path(output),
            failures,
            tracebacks=True,
            working_folder=table.working_folder,
            is_outdated=outdated_by(rows),
        )
        n_rows = table.finish(rows, estimator)
    doubts.report(" (column qc_doubt; --strict fails them)")
    return RunSummary(
        done=counts["done"],
        skipped=counts["skipped"],
        failed=len(failures),
        volumes=0,
        seconds=time.perf_counter() - start,
        output=output if n_rows else None,
        failures=listed,
    )


def _check(outcome: Outcome[Prediction], doubts: Doubts) -> Outcome[Prediction]:
    """Note a doubt, or make it a failure of the row."""
    if outcome.result is None:
        return outcome
    error = doubts.note(outcome.subject, outcome.result.quality)
    return outcome if error is None else Outcome(outcome.subject, error=error)


def _describe_outputs(estimator: FineTunedEncoder) -> dict[str, Any]:
    """Return the columns of numbers, and the number of scores in the journal."""
    n_outputs = len(estimator.head_.bias)
    names = []
    if isinstance(estimator, BrainFoundClassifier):
        names = [f"probability_{name}" for name in estimator.classes_]
    return {"n_features": n_outputs, "feature_names": names}


def _decide(
    estimator: FineTunedEncoder, scores: NDArray[np.float64]
) -> tuple[list[str], Iterator[NDArray[np.float32]]]:
    """Return the predictions of rows as text, and their probabilities."""
    if isinstance(estimator, BrainFoundClassifier):
        found = estimator.to_probabilities(scores)
        classes = estimator.classes_[found.argmax(axis=1)]
        return [*map(str, classes)], iter(found.astype(np.float32))
    if isinstance(estimator, BrainFoundRegressor):
        numbers = estimator.to_numbers(scores)
        empty = np.empty((len(scores), 0), np.float32)
        return [f"{number:.6g}" for number in numbers], iter(empty)
    raise TypeError(type(estimator).__name__)


def _is_own(name: str, modalities: Sequence[str]) -> bool:
    own = name == "prediction" or name.startswith("probability_")
    return own or is_reserved(name, modalities)
