"""Previews of a table: those that the run kept, and others from the images."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from brainfeat.embedding.subject_encoder import SubjectEncoder
from brainfeat.exceptions import BrainfeatError
from brainfeat.preprocessing.preview import draw_picture
from brainfeat.preprocessing.quality import Quality
from brainfeat.progress import track
from brainfeat.reporting.cohort import Cohort
from brainfeat.reporting.cohort_report import Inputs
from brainfeat.reporting.previews import Preview
from brainfeat.reporting.report_inputs import choose_rows, describe_choice
from brainfeat.subjects.streaming import stream_outcomes
from brainfeat.subjects.subject import Outcome, Subject
from brainfeat.tables.previews import PreviewFolder

__all__ = ["read_inputs"]


def read_inputs(
    cohort: Cohort,
    subjects: Sequence[Subject],
    hashes: Sequence[Any],
    folder: PreviewFolder,
    load_encoder: Callable[[], SubjectEncoder],
    *,
    n_jobs: int = 1,
    show_progress: bool = False,
) -> Inputs:
    """Read the previews of rows; rows without one are preprocessed again."""
    rows = choose_rows(cohort)
    pictures = {
        row: folder.load(hashes[row] if isinstance(hashes[row], str) else None)
        for row in rows
    }
    found = {
        row: Preview(cohort.names[row], picture, _read_quality(cohort, row))
        for row, picture in pictures.items()
        if picture is not None
    }
    missing = [row for row in rows if row not in found]
    remarks = describe_choice(len(rows), len(subjects))
    failures: list[tuple[str, str]] = []
    try:
        encoder = load_encoder() if missing else None
    except BrainfeatError as error:
        remarks.append(f"Images are not shown: {error}")
        encoder = None
    if encoder is not None:
        remarks.append(_describe_missing(len(missing), len(rows)))
        stream = _preprocess([subjects[row] for row in missing], encoder, n_jobs)
        with closing(stream):
            name, n_missing = "preprocessing", len(missing)
            outcomes = track(
                stream, total=n_missing, description=name, show=show_progress
            )
            for row, outcome in zip(missing, outcomes, strict=True):
                if outcome.result is None:
                    failures.append((cohort.names[row], str(outcome.error)))
                else:
                    found[row] = outcome.result._replace(name=cohort.names[row])
    previews = [found[row] for row in rows if row in found]
    return Inputs(previews=previews, failures=failures, remarks=remarks)


def _describe_missing(n_missing: int, n_rows: int) -> str:
    return (
        f"{n_missing} of {n_rows} rows have no preview beside the table, as earlier "
        "versions, --no-previews and --cache leave none: their images were "
        "preprocessed again."
    )


def _preprocess(
    subjects: Sequence[Subject], encoder: SubjectEncoder, n_jobs: int
) -> Generator[Outcome[Preview]]:
    """Draw subjects; nothing is encoded."""

    def draw(subject: Subject) -> Outcome[Preview]:
        encoder.check(subject)
        processed, _ = encoder.preprocess(subject)
        picture = draw_picture(processed, encoder.modalities)
        preview = Preview(subject.participant_id, picture, processed.quality)
        return Outcome(subject, preview)

    def encode(inputs: Sequence[Any]) -> list[Preview | Exception]:
        return list(inputs)  # `draw` gives outcomes: none is left to encode

    return stream_outcomes(
        subjects,
        draw,
        encode,
        device=encoder.device,
        n_jobs=n_jobs,
        batch_size=lambda: 1,
    )


def _read_quality(cohort: Cohort, row: int) -> Quality:
    """Return the quality that the table holds."""
    values = cohort.known.iloc[row]

    def number(name: str) -> float:
        try:
            return float(values.get(name, np.nan))
        except (TypeError, ValueError):
            return float("nan")

    doubt = values.get("qc_doubt")
    text = doubt if isinstance(doubt, str) else ""
    return Quality(number("qc_similarity"), number("qc_brain_ml"), text)
