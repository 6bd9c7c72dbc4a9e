"""What a report shows of the images: previews, and the importance of regions."""

from collections.abc import Sequence
from contextlib import closing

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from brainfeat.embedding.regions import RegionAtlas
from brainfeat.embedding.subject_encoder import SubjectEncoder
from brainfeat.embedding.tokens import SubjectTokens, stream_tokens
from brainfeat.evaluation import cohort_distances
from brainfeat.progress import track
from brainfeat.reporting.cohort import Cohort
from brainfeat.reporting.cohort_report import Inputs
from brainfeat.reporting.importance import attribute_tokens
from brainfeat.reporting.previews import Outline, Preview, draw_preview
from brainfeat.reporting.template_regions import template_regions
from brainfeat.subjects.subject import Subject

__all__ = ["look_at_inputs"]

_MOST_SHOWN = 200  # of a larger cohort, those that lie farthest out
_FEWEST_OF_CLASS = 5
_N_FOLDS = 5


def look_at_inputs(
    cohort: Cohort,
    subjects: Sequence[Subject],
    encoder: SubjectEncoder,
    *,
    n_jobs: int = 1,
    show_progress: bool = False,
) -> Inputs:
    """Preprocess subjects once more, to show them and to attribute decisions.

    Parameters
    ----------
    cohort : Cohort
        Embeddings and what is known.
    subjects : sequence of Subject
        Images of each row.
    encoder : SubjectEncoder
        What embedded them.
    n_jobs : int
        Threads that read and preprocess.
    show_progress : bool
        Whether to show how many subjects are done.

    Returns
    -------
    Inputs
        Previews; importance of regions, if there are two classes.
    """
    rows = _choose_rows(cohort)
    outline = Outline.draw(encoder.preprocessor.geometry)
    previews: list[Preview] = []
    failures: list[tuple[str, str]] = []
    found: dict[int, SubjectTokens] = {}
    wanted = _can_attribute(cohort, rows, encoder)
    stream = stream_tokens(encoder, [subjects[row] for row in rows], n_jobs=n_jobs)
    with closing(stream) as outcomes:
        for row, outcome in track(
            zip(rows, outcomes, strict=False),
            total=len(rows),
            description="preprocessing",
            show=show_progress,
        ):
            if outcome.result is None:
                failures.append((cohort.names[row], str(outcome.error)))
                continue
            processed = outcome.result.processed
            previews.append(draw_preview(cohort.names[row], processed, outline))
            if wanted:
                found[row] = outcome.result.without_voxels()
    remarks = []
    if len(rows) < len(subjects):
        remarks.append(
            f"{len(rows)} of {len(subjects)} rows are looked at: those whose "
            "embeddings lie farthest from the cohort, and so no sample of it."
        )
    importance = None
    if wanted and _is_enough(cohort, list(found)):
        importance = _attribute(cohort, found, encoder)
    return Inputs(
        outline=outline,
        previews=previews,
        failures=failures,
        importance=importance,
        remarks=remarks,
    )


def _choose_rows(cohort: Cohort) -> list[int]:
    n_rows = len(cohort.names)
    if n_rows <= _MOST_SHOWN:
        return list(range(n_rows))
    score = cohort_distances(cohort.embeddings).score
    chosen = np.argsort(-score, kind="stable")[:_MOST_SHOWN]
    return sorted(int(row) for row in chosen)


def _can_attribute(
    cohort: Cohort, rows: Sequence[int], encoder: SubjectEncoder
) -> bool:
    is_placed = encoder.preprocessor.alignment != "none"
    return (
        encoder.pooling in {"mean", "regions"}
        and is_placed
        and _is_enough(cohort, rows)
    )


def _is_enough(cohort: Cohort, rows: Sequence[int]) -> bool:
    """Whether there are two classes with some people each."""
    people = np.asarray(cohort.participants)[list(rows)]
    labels = _labels(cohort)[list(rows)]
    known = labels != "unknown"
    counts = [len(set(people[known & (labels == name)])) for name in set(labels[known])]
    return len(counts) == 2 and min(counts) >= _FEWEST_OF_CLASS


def _labels(cohort: Cohort) -> NDArray[np.str_]:
    if cohort.label is None:
        return np.array(["unknown"] * len(cohort.names))
    return np.array(cohort.texts(cohort.label).tolist(), dtype=np.str_)


def _attribute(
    cohort: Cohort, found: dict[int, SubjectTokens], encoder: SubjectEncoder
) -> pd.DataFrame:
    labels = _labels(cohort)
    rows = [row for row in found if labels[row] != "unknown"]
    people = np.asarray(cohort.participants)[rows]
    splitter = StratifiedGroupKFold(_N_FOLDS, shuffle=True, random_state=0)
    folds = list(splitter.split(rows, labels[rows], people))
    # As strong a penalty as the probe's middle one.
    head = make_pipeline(StandardScaler(), RidgeClassifier(alpha=encoder.n_features))
    return attribute_tokens(
        [found[row] for row in rows],
        [cohort.names[row] for row in rows],
        encoder,
        head,
        RegionAtlas.load(template_regions()),
        labels=labels[rows],
        folds=folds,
    ).importance
