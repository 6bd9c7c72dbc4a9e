"""Decoding maps: a probe at each token of dense features."""

__all__ = ["DecodingMap", "decode_positions"]

from collections.abc import Sequence
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from brainfeat.evaluation.folds import Fold, check_repeats, permute_labels, repeat_folds
from brainfeat.evaluation.labelled import LabelledFeatures
from brainfeat.evaluation.ridge import count_wins, standard_deviation
from brainfeat.exceptions import InputError
from brainfeat.preprocessing.template import load_template

Floats = NDArray[np.float64]

_PENALTY = 1.0  # in the units of `ridge.PENALTIES`, at every position
_MIN_BRAIN_FRACTION = 0.25  # of a token in the default mask
_BATCH_SIZE = 32  # positions solved at once
_N_SAMPLES = 4  # along each edge of a token, to estimate its brain fraction


class DecodingMap(NamedTuple):
    """Scores of a probe at each token, as images with one voxel per token.

    Attributes
    ----------
    auc_img : Nifti1Image
        Area under the ROC curve of held-out subjects; 0 outside the mask.
    p_img : Nifti1Image
        Fraction of permutations that score as high at this token; 1 outside.
    corrected_p_img : Nifti1Image
        Fraction of permutations whose best token scores as high, which corrects for
        the number of tokens [1]_; 1 outside.

    References
    ----------
    .. [1] Nichols & Holmes, "Nonparametric permutation tests for functional
       neuroimaging", Human Brain Mapping 15, 2002. doi:10.1002/hbm.1058
    """

    auc_img: nib.Nifti1Image
    p_img: nib.Nifti1Image
    corrected_p_img: nib.Nifti1Image


def decode_positions(
    images: Sequence[nib.Nifti1Image],
    y: Any,
    groups: Any = None,
    *,
    mask_img: nib.Nifti1Image | None = None,
    n_repeats: int = 3,
    n_permutations: int = 200,
    random_state: int = 0,
) -> DecodingMap:
    """Cross-validate a ridge probe at each token position.

    Parameters
    ----------
    images : sequence of Nifti1Image of shape (size_i, size_j, size_k, D)
        One per row, on one grid, as from ``transform_dense(X, space="template")``.
    y : array-like of shape (n_rows,)
        Two classes.
    groups : array-like of shape (n_rows,), optional
        Subject of each row; a subject is on one side of each split.
    mask_img : Nifti1Image, optional
        Nonzero where to decode, on the grid of the images. By default the tokens
        that are at least a quarter brain in MNI152.
    n_repeats : int
        Repeats of the cross-validation, over which scores are averaged.
    n_permutations : int
        Permutations of the labels of whole subjects, scored on the same folds.
    random_state : int
        Seed of folds and permutations.

    Returns
    -------
    DecodingMap
        Score and p-values at each token.

    Raises
    ------
    ConfigError
        If a number of repeats or permutations is not positive.
    InputError
        If the images do not share a grid or hold NaN, the mask is empty or on another
        grid, or labels or groups have another length.
    """
    check_repeats(n_repeats, n_permutations)
    affine = _check_grid(images)
    shape = images[0].shape[:3]
    if mask_img is None:
        mask = _brain_tokens(shape, affine)
    else:
        mask = _read_mask(mask_img, shape, affine)
    if not mask.any():
        raise InputError("mask_img: expected tokens to decode from, got 0.")
    tokens = np.stack([np.asarray(image.dataobj)[mask] for image in images], axis=1)
    if not np.isfinite(tokens).all():
        index = int(np.argmin(np.isfinite(tokens).all(axis=(0, 2))))
        raise InputError(
            f"images[{index}]: expected finite tokens in the mask, got NaN or "
            "infinite values."
        )
    rows = np.arange(len(images), dtype=np.float64)[:, None]
    data = LabelledFeatures.check(rows, y, groups, None, None)
    repeats = repeat_folds(data.labels, data.groups, n_repeats, random_state)
    generator = np.random.default_rng(random_state)
    one_block = np.zeros(len(images), dtype=np.intp)
    y, groups = data.labels, data.groups
    permuted = permute_labels(y, groups, one_block, n_permutations, generator)
    auc = _score_tokens(tokens, np.column_stack([y, permuted]), repeats)
    observed, null = auc[:, :1], auc[:, 1:]
    p, corrected = _p_values(observed, null), _p_values(observed, null.max(axis=0))
    return DecodingMap(
        _to_image(observed[:, 0], mask, affine, 0.0),
        _to_image(p, mask, affine, 1.0),
        _to_image(corrected, mask, affine, 1.0),
    )


def _p_values(observed: Floats, null: Floats) -> Floats:
    # Ties count as high; so do permutations without a score (NaN).
    is_high = ~(null < observed - 1e-9)
    p: Floats = (1 + is_high.sum(axis=1)) / (1 + null.shape[-1])
    return p


def _score_tokens(
    tokens: NDArray[np.float32],
    labels: NDArray[np.bool_],
    repeats: Sequence[Sequence[Fold]],
) -> Floats:
    """Mean AUC over repeats, of shape (n_positions, n_labels)."""
    parts = [tokens[i : i + _BATCH_SIZE] for i in range(0, len(tokens), _BATCH_SIZE)]
    scores = [
        np.concatenate([_score_positions(part, labels, folds) for part in parts])
        for folds in repeats
    ]
    return np.asarray(np.mean(scores, axis=0))


def _score_positions(
    tokens: NDArray[np.float32], labels: NDArray[np.bool_], folds: Sequence[Fold]
) -> Floats:
    """AUC (n_positions, n_labels); NaN for labels without a fold of both classes."""
    won: Floats = np.zeros((len(tokens), labels.shape[1]))
    n_pairs: Floats = np.zeros(labels.shape[1])
    for train, test in folds:
        rows = tokens[:, train].astype(np.float64)
        mean, scale = rows.mean(axis=1, keepdims=True), standard_deviation(rows, axis=1)
        rows = (rows - mean) / scale
        others = (tokens[:, test] - mean) / scale
        unit = tokens.shape[2]
        kernel = rows @ rows.transpose(0, 2, 1) / unit
        kernel += _PENALTY * np.eye(len(train))
        targets = np.where(labels[train], 1.0, -1.0)
        targets = targets - targets.mean(axis=0)
        targets = np.broadcast_to(targets, (len(rows), *targets.shape))
        weights = np.linalg.solve(kernel, targets)
        scores = others @ rows.transpose(0, 2, 1) @ weights / unit
        positive = labels[test]
        n_positive = positive.sum(axis=0)
        won += count_wins(scores, positive)
        n_pairs += n_positive * (len(test) - n_positive)
    unknown = np.full_like(won, np.nan)
    return np.divide(won, n_pairs, out=unknown, where=n_pairs > 0)


def _check_grid(images: Sequence[nib.Nifti1Image]) -> Floats:
    if not len(images):
        raise InputError("images: expected one 4D image per row, got none.")
    first = images[0]
    for index, image in enumerate(images):
        if not isinstance(image, SpatialImage):
            kind = type(image).__name__
            raise InputError(f"images[{index}]: expected an image, got {kind}.")
        if image.ndim != 4 or image.shape != first.shape:
            raise InputError(
                f"images[{index}]: expected a 4D image of shape {first.shape}, "
                f"got {image.shape}."
            )
        if not np.allclose(image.affine, first.affine, atol=1e-3):
            raise InputError(
                f"images[{index}]: expected the affine of the first; "
                "transform_dense(X, space='template') puts all on one grid."
            )
    return np.asarray(first.affine, dtype=np.float64)


def _read_mask(
    mask_img: nib.Nifti1Image, shape: tuple[int, ...], affine: Floats
) -> NDArray[np.bool_]:
    is_shaped = mask_img.shape == shape
    if not is_shaped or not np.allclose(mask_img.affine, affine, atol=1e-3):
        actual = "another affine" if is_shaped else f"shape {mask_img.shape}"
        raise InputError(
            f"mask_img: expected the grid of the images, of shape {shape}, "
            f"got {actual}."
        )
    # SPM writes NaN around the brain.
    return np.asarray(np.nan_to_num(np.asarray(mask_img.dataobj)) != 0)


def _brain_tokens(shape: tuple[int, ...], affine: Floats) -> NDArray[np.bool_]:
    brain = load_template("brain_mask")
    steps = (np.arange(_N_SAMPLES) + 0.5) / _N_SAMPLES - 0.5
    fine = [(np.arange(size)[:, None] + steps).ravel() for size in shape]
    points = np.stack(np.meshgrid(*fine, indexing="ij"), axis=-1)
    to_brain = np.linalg.inv(brain.geometry.affine) @ affine
    voxels = np.rint(points @ to_brain[:3, :3].T + to_brain[:3, 3]).astype(int)
    sizes = np.array(brain.data.shape)
    inside = ((voxels >= 0) & (voxels < sizes)).all(axis=-1)
    nearest = tuple(np.moveaxis(voxels.clip(0, sizes - 1), -1, 0))
    is_brain = inside & brain.data[nearest]
    i, j, k = shape
    blocks = is_brain.reshape(i, _N_SAMPLES, j, _N_SAMPLES, k, _N_SAMPLES)
    return np.asarray(blocks.mean(axis=(1, 3, 5)) >= _MIN_BRAIN_FRACTION)


def _to_image(
    values: Floats, mask: NDArray[np.bool_], affine: Floats, outside: float
) -> nib.Nifti1Image:
    data = np.full(mask.shape, outside, dtype=np.float32)
    data[mask] = values
    return nib.Nifti1Image(data, affine)
