"""Previews of the images of a report, and the importance of regions."""

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
from brainfeat.preprocessing.preview import draw_picture
from brainfeat.progress import track
from brainfeat.reporting.cohort import Cohort
from brainfeat.reporting.cohort_report import Inputs
from brainfeat.reporting.importance import attribute_tokens
from brainfeat.reporting.previews import Preview
from brainfeat.reporting.template_regions import template_regions
from brainfeat.subjects.subject import Subject

__all__ = ["choose_rows", "describe_choice", "preprocess_inputs"]

_MOST_SHOWN = 200  # of a larger cohort, the most distant rows
_FEWEST_OF_CLASS = 5
_N_FOLDS = 5


def preprocess_inputs(
    cohort: Cohort,
    subjects: Sequence[Subject],
    encoder: SubjectEncoder,
    *,
    n_jobs: int = 1,
    show_progress: bool = False,
) -> Inputs:
    """Preprocess subjects again, draw each, and attribute a probe's decisions."""
    rows = choose_rows(cohort)
    previews: list[Preview] = []
    failures: list[tuple[str, str]] = []
    tokens: dict[int, SubjectTokens] = {}
    is_attributed = _can_attribute(cohort, rows, encoder)
    stream = stream_tokens(encoder, [subjects[row] for row in rows], n_jobs=n_jobs)
    with closing(stream):
        name = "preprocessing"
        outcomes = track(stream, total=len(rows), description=name, show=show_progress)
        for row, outcome in zip(rows, outcomes, strict=True):
            if outcome.result is None:
                failures.append((cohort.names[row], str(outcome.error)))
                continue
            processed = outcome.result.processed
            picture = draw_picture(processed, encoder.modalities)
            previews.append(Preview(cohort.names[row], picture, processed.quality))
            if is_attributed:
                tokens[row] = outcome.result.without_voxels()
    importance = None
    if is_attributed and _has_two_classes(cohort, list(tokens)):
        importance = _attribute(cohort, tokens, encoder)
    return Inputs(
        previews=previews,
        failures=failures,
        importance=importance,
        remarks=describe_choice(len(rows), len(subjects)),
    )


def choose_rows(cohort: Cohort) -> list[int]:
    """Return the rows to show: of a large cohort, the most distant."""
    n_rows = len(cohort.names)
    if n_rows <= _MOST_SHOWN:
        return list(range(n_rows))
    score = cohort_distances(cohort.embeddings, groups=cohort.participants).score
    chosen = np.argsort(-score, kind="stable")[:_MOST_SHOWN]
    return sorted(int(row) for row in chosen)


def describe_choice(n_chosen: int, n_rows: int) -> list[str]:
    """Say that rows were left out, and which."""
    if n_chosen == n_rows:
        return []
    return [
        f"Only {n_chosen} of {n_rows} rows are shown: those whose embeddings lie "
        "farthest from the cohort. They are not a random sample."
    ]


def _can_attribute(cohort: Cohort, rows: list[int], encoder: SubjectEncoder) -> bool:
    is_aligned = encoder.preprocessor.knows_template
    has_tokens = encoder.pooling in {"mean", "regions"}
    return is_aligned and has_tokens and _has_two_classes(cohort, rows)


def _has_two_classes(cohort: Cohort, rows: Sequence[int]) -> bool:
    """Whether there are two classes with enough subjects each."""
    participants = np.asarray(cohort.participants)[list(rows)]
    labels = _labels(cohort)[list(rows)]
    classes = set(labels[labels != "unknown"])
    counts = [len(set(participants[labels == name])) for name in classes]
    return len(counts) == 2 and min(counts) >= _FEWEST_OF_CLASS


def _labels(cohort: Cohort) -> NDArray[np.str_]:
    if cohort.label is None:
        return np.array(["unknown"] * len(cohort.names))
    return np.array(cohort.texts(cohort.label).tolist(), dtype=np.str_)


def _attribute(
    cohort: Cohort, tokens: dict[int, SubjectTokens], encoder: SubjectEncoder
) -> pd.DataFrame:
    labels = _labels(cohort)
    rows = [row for row in tokens if labels[row] != "unknown"]
    participants = np.asarray(cohort.participants)[rows]
    splitter = StratifiedGroupKFold(_N_FOLDS, shuffle=True, random_state=0)
    folds = list(splitter.split(rows, labels[rows], participants))
    # The middle of the penalties that the probe chooses from.
    head = make_pipeline(StandardScaler(), RidgeClassifier(alpha=encoder.n_features))
    return attribute_tokens(
        [tokens[row] for row in rows],
        [cohort.names[row] for row in rows],
        encoder,
        head,
        RegionAtlas.load(template_regions()),
        labels=labels[rows],
        folds=folds,
    ).importance
