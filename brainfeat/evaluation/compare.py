"""Compare embeddings of the same scans: which of them predicts a label best."""

__all__ = ["compare_embeddings"]

import warnings
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainfeat.evaluation.compared_rows import match_rows
from brainfeat.evaluation.comparison import Comparison
from brainfeat.evaluation.cross_validation import (
    decode_site,
    measure_learning_curve,
    predict_held_out,
)
from brainfeat.evaluation.drawn_scores import check_draws, score_draws
from brainfeat.evaluation.folds import check_repeats, repeat_folds
from brainfeat.evaluation.labelled import LabelledFeatures
from brainfeat.evaluation.reliability import evaluate_reliability
from brainfeat.evaluation.resampling import (
    adjust_by_holm,
    draw_subjects,
    inflate,
    summarise_draws,
)
from brainfeat.evaluation.tasks import LIMITS, Kind
from brainfeat.exceptions import ConfoundingWarning

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


def compare_embeddings(  # noqa: PLR0913  as evaluate_probe
    embeddings: Mapping[str, Any],
    y: Any,
    groups: Any = None,
    site: Any = None,
    *,
    task: Kind = "auto",
    pos_label: Any = None,
    n_repeats: int = 5,
    n_bootstraps: int = 2000,
    confidence: float = 0.95,
    random_state: int = 0,
) -> Comparison:
    """Compare how well linear probes read a label from several embeddings.

    All embeddings are scored on the same rows, with the same folds by subject, by the
    probe of `evaluate_probe`: ridge regression on standardised features, whose penalty
    is selected within each training fold. Scores and their paired differences come with
    bootstrap intervals over subjects, learning curves, and, where sites or repeat scans
    are given, with what an embedding says of the site and of who a subject is.

    Parameters
    ----------
    embeddings : dict of str to array-like or DataFrame
        Features of shape (n_rows, n_features) by the name of the embedding. Arrays have
        the same rows. Tables may have different ones: DataFrames with a column
        ``participant_id`` (and ``session_id`` and ``run``, where they have them) and
        columns ``emb_*``, as ``brainfeat embed`` writes, or with the subject as index.
        The rows that all of them have are compared.
    y : array-like of shape (n_rows,)
        Two classes, several classes, or numbers such as age. For tables of different
        rows, a Series by participant, or by participant and session. Rows without a
        label are left out.
    groups : array-like of shape (n_rows,), optional
        Subject of each row, like ``y``. By default ``participant_id``, and else each
        row is a subject.
    site : array-like of shape (n_rows,), optional
        Site or scanner of each row, like ``y``.
    task : {"auto", "binary", "classes", "numbers"}
        What ``y`` is, as for `evaluate_probe`.
    pos_label : str, int or bool, optional
        The positive one of two classes, as for `evaluate_probe`.
    n_repeats : int
        Repeats of the cross-validation, each with other folds.
    n_bootstraps : int
        Draws of subjects with replacement.
    confidence : float
        Of the intervals, between 0 and 1.
    random_state : int
        Seed of folds and draws.

    Returns
    -------
    Comparison
        Scores, differences and the rest, as DataFrames.

    Raises
    ------
    ConfigError
        If a number of repeats or draws is not positive, or ``confidence`` is not
        between 0 and 1.
    InputError
        If embeddings have no rows in common, lengths differ, labels are not what
        ``task`` says, or a class has a single subject.

    Warns
    -----
    LeakageWarning
        If rows of different subjects have the same features in all embeddings.
    ConfoundingWarning
        If the site goes with the label.

    Notes
    -----
    Subjects are drawn with all of their rows, in the strata of their classes, and each
    draw scores all embeddings: the intervals of differences are paired. Draws are
    widened for what folds have in common, their training subjects, by the factor of
    Nadeau and Bengio [1]_: under the hypothesis of no difference at most the nominal
    fraction of intervals excludes zero, and fewer where all embeddings predict well.
    ``p_holm`` is adjusted for the number of pairs [2]_, each metric for itself.

    References
    ----------
    .. [1] Nadeau & Bengio, "Inference for the generalization error", Machine Learning
       52, 2003. doi:10.1023/A:1024068626366
    .. [2] Holm, "A simple sequentially rejective multiple test procedure",
       Scandinavian Journal of Statistics 6, 1979.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(80) % 2
    >>> noise = rng.normal(size=(80, 5))
    >>> result = compare_embeddings({"a": noise + y[:, None], "b": noise}, y)
    >>> result.differences[["first", "second", "metric"]].values.tolist()[0]
    ['a', 'b', 'AUC']
    >>> bool(result.differences["low"][0] > 0)
    True
    """
    _check_settings(n_repeats, n_bootstraps, confidence)
    rows = match_rows(embeddings, y, groups, site)
    data, findings = rows.check(task, pos_label)
    draws = _score(data, n_repeats, n_bootstraps, random_state)
    some = next(iter(data.values()))
    metrics = some.task.metrics
    for finding in findings:
        warnings.warn(finding, ConfoundingWarning, stacklevel=2)
    return Comparison(
        classes=some.classes,
        metrics=metrics,
        chance=some.task.chance,
        n_rows=len(some.labels),
        n_subjects=len(np.unique(some.groups)),
        n_dropped=rows.n_dropped,
        scores=_summarise_scores(draws, confidence),
        differences=_summarise_pairs(draws, metrics, confidence),
        learning_curve=_learning_curves(data, random_state),
        site=_decode_sites(data, random_state),
        repeats=_measure_repeats(data),
        confidence=confidence,
        findings=(*some.findings, *findings),
    )


def _check_settings(n_repeats: int, n_bootstraps: int, confidence: float) -> None:
    check_repeats(n_repeats, 1)
    check_draws(n_bootstraps, confidence, 0.5)


def _score(
    data: Mapping[str, LabelledFeatures], n_repeats: int, n_bootstraps: int, seed: int
) -> dict[tuple[str, str], tuple[float, Floats, int]]:
    """Return by embedding and metric the score, its draws, and the number of folds."""
    some = next(iter(data.values()))
    strata = some.task.strata(some.labels)
    repeats = repeat_folds(strata, some.groups, n_repeats, seed)
    weights = draw_subjects(some.groups, strata, n_bootstraps, seed)
    weights = np.vstack([np.ones(len(strata)), weights])
    scores = {}
    for name, rows in data.items():
        predictions = [
            predict_held_out(rows, "features", folds, seed) for folds in repeats
        ]
        for metric, drawn in score_draws(rows, predictions, repeats, weights).items():
            scores[name, metric] = float(drawn[0]), drawn[1:], len(repeats[0])
    return scores


def _summarise_scores(
    draws: Mapping[tuple[str, str], tuple[float, Floats, int]], confidence: float
) -> pd.DataFrame:
    lines = []
    for (name, metric), (value, samples, n_folds) in draws.items():
        widened = np.clip(inflate(samples, value, n_folds), *LIMITS[metric])
        interval = summarise_draws(widened, value, confidence)
        lines.append((name, metric, *interval[:3]))
    return pd.DataFrame(lines, columns=["embedding", "metric", "value", "low", "high"])


def _summarise_pairs(
    draws: Mapping[tuple[str, str], tuple[float, Floats, int]],
    metrics: Sequence[str],
    confidence: float,
) -> pd.DataFrame:
    """Compare each pair of embeddings by each metric, on the same draws."""
    names = list(dict.fromkeys(name for name, _ in draws))
    lines: list[tuple[Any, ...]] = []
    for metric in metrics:
        found = []
        for pair in combinations(names, 2):
            (one, ours, n_folds), (other, theirs, _) = (draws[n, metric] for n in pair)
            lowest, highest = LIMITS[metric]
            widened = inflate(ours - theirs, one - other, n_folds)
            widened = np.clip(widened, lowest - highest, highest - lowest)
            interval = summarise_draws(widened, one - other, confidence)
            found.append((*pair, metric, *interval))
        adjusted = adjust_by_holm([line[-1] for line in found])
        lines += [(*line, p) for line, p in zip(found, adjusted, strict=True)]
    ends = ["difference", "low", "high", "p", "p_holm"]
    return pd.DataFrame(lines, columns=["first", "second", "metric", *ends])


def _learning_curves(data: Mapping[str, LabelledFeatures], seed: int) -> pd.DataFrame:
    """Draw the same labelled subjects for each embedding."""
    lines = [
        (name, point.n_labels, *point.auc)
        for name, rows in data.items()
        for point in measure_learning_curve(rows, seed=seed)
    ]
    columns = ["embedding", "n_subjects", "value", "standard_error"]
    return pd.DataFrame(lines, columns=columns)


def _decode_sites(data: Mapping[str, LabelledFeatures], seed: int) -> pd.DataFrame:
    lines = []
    for name, rows in data.items():
        if rows.site is not None and len(rows.site_names) > 1:
            score = decode_site(rows.features, rows.site, rows.groups, seed=seed)
            lines.append((name, *score, 1.0 / len(rows.site_names)))
    columns = ["embedding", "balanced_accuracy", "standard_error", "chance"]
    return pd.DataFrame(lines, columns=columns)


def _measure_repeats(data: Mapping[str, LabelledFeatures]) -> pd.DataFrame:
    """Measure agreement of repeat scans, if two subjects have some."""
    lines = []
    for name, rows in data.items():
        if (np.bincount(rows.groups) > 1).sum() < 2:
            continue
        found = evaluate_reliability(rows.features, rows.groups)
        icc = found.feature_icc[~np.isnan(found.feature_icc)]
        median = float(np.median(icc)) if len(icc) else np.nan
        scores = (found.retrieval, found.retrieval_chance, median)
        lines.append((name, found.n_subjects, *scores))
    columns = ["embedding", "n_subjects", "retrieval", "chance", "icc"]
    return pd.DataFrame(lines, columns=columns)
