"""Measures of agreement: between raters, scans and label maps."""

__all__ = [
    "LesionScores",
    "dice_scores",
    "hausdorff_distances",
    "intraclass_correlation",
    "retrieval_accuracy",
    "score_lesions",
]

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from brainfeat.exceptions import InputError

_BATCH_SIZE = 256


def intraclass_correlation(scores: ArrayLike) -> NDArray[np.float64]:
    """Compute ICC(2,1): absolute agreement of single measurements.

    In this two-way random-effects model, subjects and raters, such as scanners, are
    samples of a population, and an offset of a rater counts as disagreement [1]_.

    Parameters
    ----------
    scores : array-like of shape (n_subjects, n_raters, ...)
        Score of each subject by each rater; further axes are independent scores.

    Returns
    -------
    ndarray of float64 of shape (...)
        1 for perfect agreement, about 0 for none, and negative where scores differ
        more within subjects than between them: of many subjects down to
        ``-1 / (n_raters - 1)``, of few further. NaN where it is not defined, such as
        where all scores are equal.

    Raises
    ------
    InputError
        If there are fewer than two subjects or raters.

    References
    ----------
    .. [1] Shrout & Fleiss, "Intraclass correlations: uses in assessing rater
       reliability", Psychological Bulletin 86, 1979. doi:10.1037/0033-2909.86.2.420

    Examples
    --------
    >>> float(intraclass_correlation([[1, 1], [4, 4], [9, 9]]))
    1.0
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim < 2 or min(values.shape[:2]) < 2:
        raise InputError(
            "scores: expected shape (n_subjects, n_raters, ...) with at least two of "
            f"both, got {values.shape}."
        )
    n, k = values.shape[:2]
    centred = values - values.mean(axis=(0, 1))
    subjects, raters = centred.mean(axis=1), centred.mean(axis=0)
    residual = centred - subjects[:, None] - raters[None]
    # Mean squares of the two-way analysis of variance, as in the paper's table 2.
    between_subjects = k * np.square(subjects).sum(axis=0) / (n - 1)
    between_raters = n * np.square(raters).sum(axis=0) / (k - 1)
    error = np.square(residual).sum(axis=(0, 1)) / ((n - 1) * (k - 1))
    total = between_subjects + (k - 1) * error + k * (between_raters - error) / n
    agreement = np.full(total.shape, np.nan)
    # The mean of equal scores may be rounded, so their variance is not exactly zero.
    differ = (np.ptp(values, axis=(0, 1)) > 0) & (total > 0)
    np.divide(between_subjects - error, total, out=agreement, where=differ)
    return agreement


def retrieval_accuracy(features: ArrayLike, subjects: ArrayLike) -> float:
    """Compute the fraction of scans whose nearest other scan is of the same subject.

    Parameters
    ----------
    features : array-like of shape (n_rows, n_features)
        One row a scan; each feature is standardised, and rows are compared by their
        cosine similarity.
    subjects : array-like of shape (n_rows,)
        Subject of each scan.

    Returns
    -------
    float
        From 0 to 1, over the rows whose subject has another row.

    Raises
    ------
    InputError
        If lengths differ, a feature is not finite, or no subject has two rows.

    Examples
    --------
    >>> retrieval_accuracy([[0, 1], [0, 1.1], [2, 0], [2.2, 0]], ["a", "a", "b", "b"])
    1.0
    """
    rows = np.asarray(features, dtype=np.float64)
    _, labels = np.unique(np.asarray(subjects), return_inverse=True)
    if rows.ndim != 2 or len(rows) != len(labels):
        raise InputError(
            f"subjects: expected one for each row, got {len(labels)} for shape "
            f"{rows.shape}."
        )
    if not np.isfinite(rows).all():
        raise InputError("features: expected finite values, got NaN or infinite ones.")
    has_match = np.bincount(labels)[labels] > 1
    if not has_match.any():
        raise InputError("subjects: expected one with two rows, got none.")
    # By rounding, constant features may have a spread.
    spread = rows.std(axis=0)
    differ = (np.ptp(rows, axis=0) > 0) & (spread > 0)
    rows = (rows - rows.mean(axis=0)) / np.where(differ, spread, 1.0)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(lengths > 0, lengths, 1.0)
    queries = np.flatnonzero(has_match)
    n_correct = 0
    # All pairs of tens of thousands of rows would not fit into memory.
    for start in range(0, len(queries), _BATCH_SIZE):
        batch = queries[start : start + _BATCH_SIZE]
        similarity = rows[batch] @ rows.T
        similarity[np.arange(len(batch)), batch] = -np.inf
        n_correct += int((labels[similarity.argmax(axis=1)] == labels[batch]).sum())
    return n_correct / len(queries)


class LesionScores(NamedTuple):
    """Lesion-wise precision, recall and F1.

    Attributes
    ----------
    precision : float
        Fraction of the predicted lesions that overlap a true one; NaN if there is no
        prediction.
    recall : float
        Fraction of the true lesions that overlap a prediction; NaN if there is none.
    f1 : float
        Their harmonic mean; NaN if there is neither a lesion nor a prediction.
    """

    precision: float
    recall: float
    f1: float


def dice_scores(
    truth: ArrayLike, found: ArrayLike, classes: Sequence[int]
) -> NDArray[np.float64]:
    """Compute the Dice coefficient of each class [1]_.

    Parameters
    ----------
    truth, found : array-like of int of the same shape
        True and predicted label maps.
    classes : sequence of int
        Labels to score.

    Returns
    -------
    ndarray of float64 of shape (n_classes,)
        Twice the intersection over the sum of both; NaN where both are empty.

    Raises
    ------
    InputError
        If the shapes differ.

    References
    ----------
    .. [1] Dice, "Measures of the amount of ecologic association between species",
       Ecology 26, 1945. doi:10.2307/1932409

    Examples
    --------
    >>> dice_scores([0, 1, 1, 2], [0, 1, 2, 2], [1, 2]).round(2).tolist()
    [0.67, 0.67]
    """
    true, predicted = _check_shapes(truth, found)
    scores = np.full(len(classes), np.nan)
    for index, label in enumerate(classes):
        is_true, is_predicted = true == label, predicted == label
        total = int(is_true.sum()) + int(is_predicted.sum())
        if total:
            scores[index] = 2 * int((is_true & is_predicted).sum()) / total
    return scores


def hausdorff_distances(
    truth: ArrayLike,
    found: ArrayLike,
    classes: Sequence[int],
    *,
    spacing: Sequence[float],
    percentile: float = 95.0,
) -> NDArray[np.float64]:
    """Compute the Hausdorff distance between the borders of each class, in mm [1]_.

    Parameters
    ----------
    truth, found : array-like of int of the same shape
        True and predicted label maps.
    classes : sequence of int
        Labels to score.
    spacing : sequence of float
        Voxel edges in mm, one an axis, such as ``image.header.get_zooms()``.
    percentile : float
        Percentile of the distances from each border to the other, of which the larger
        is taken; 100 is the Hausdorff distance itself, which depends on outliers.

    Returns
    -------
    ndarray of float64 of shape (n_classes,)
        Between the centres of border voxels, of which a face adjoins another label or
        the edge of the image; NaN where neither map has a class, infinite where only
        one has it.

    Raises
    ------
    InputError
        If the shapes differ, or spacing is not one positive number an axis.

    References
    ----------
    .. [1] Taha & Hanbury, "Metrics for evaluating 3D medical image segmentation",
       BMC Medical Imaging 15, 2015. doi:10.1186/s12880-015-0068-x

    Examples
    --------
    >>> truth, found = [0, 1, 1, 1, 0, 0, 2], [0, 1, 1, 1, 1, 1, 0]
    >>> hausdorff_distances(truth, found, [1, 2, 3], spacing=[0.5], percentile=100)
    array([ 1., inf, nan])
    """
    true, predicted = _check_shapes(truth, found)
    if len(spacing) != true.ndim or not all(edge > 0 for edge in spacing):
        edges = ", ".join(f"{edge:g}" for edge in spacing)
        raise InputError(
            f"spacing: expected {true.ndim} positive numbers, got {edges}."
        )
    distances = np.full(len(classes), np.nan)
    for index, label in enumerate(classes):
        is_true, is_predicted = true == label, predicted == label
        if is_true.any() and is_predicted.any():
            (box,) = ndimage.find_objects((is_true | is_predicted).astype(np.uint8))
            borders = [_border(is_true[box]), _border(is_predicted[box])]
            both_ways = [
                ndimage.distance_transform_edt(~to, sampling=spacing)[start]
                for start, to in (borders, borders[::-1])
            ]
            distances[index] = max(np.percentile(d, percentile) for d in both_ways)
        elif is_true.any() or is_predicted.any():
            distances[index] = np.inf
    return distances


def score_lesions(truth: ArrayLike, found: ArrayLike) -> LesionScores:
    """Compute precision, recall and F1 of lesions instead of voxels.

    A lesion is a connected component, whose voxels share a face, an edge or a corner.
    It is detected if at least one of its voxels is.

    Parameters
    ----------
    truth, found : array-like of bool of the same shape
        Masks of true and predicted lesions.

    Returns
    -------
    LesionScores
        Precision, recall and F1.

    Raises
    ------
    InputError
        If the shapes differ.

    Examples
    --------
    >>> score_lesions([1, 0, 1, 0, 0], [1, 0, 0, 0, 1])
    LesionScores(precision=0.5, recall=0.5, f1=0.5)
    """
    true, predicted = _check_shapes(truth, found)
    neighbours = np.ones([3] * true.ndim)
    true_parts, n_true = ndimage.label(true, neighbours)
    predicted_parts, n_predicted = ndimage.label(predicted, neighbours)
    common = (true_parts > 0) & (predicted_parts > 0)
    n_detected = len(np.unique(true_parts[common]))
    n_correct = len(np.unique(predicted_parts[common]))
    precision = n_correct / n_predicted if n_predicted else np.nan
    recall = n_detected / n_true if n_true else np.nan
    if not n_true and not n_predicted:
        return LesionScores(precision, recall, np.nan)
    if not n_true or not n_predicted or not n_correct:
        return LesionScores(precision, recall, 0.0)
    f1 = 2 * precision * recall / (precision + recall)
    return LesionScores(precision, recall, f1)


def _border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    border: NDArray[np.bool_] = mask & ~ndimage.binary_erosion(mask)
    return border


def _check_shapes(
    truth: ArrayLike, found: ArrayLike
) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    true, predicted = np.asarray(truth), np.asarray(found)
    if true.shape != predicted.shape:
        raise InputError(
            f"label maps: expected the same shape, got {true.shape} and "
            f"{predicted.shape}."
        )
    return true, predicted
