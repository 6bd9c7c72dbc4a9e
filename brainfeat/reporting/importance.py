"""Importance of regions for a fitted classifier, and maps of contributions."""

__all__ = ["AttributionMethod", "attribute_tokens", "attribution"]

from collections.abc import Sequence
from contextlib import closing
from typing import Any, Literal, get_args

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import check_cv
from sklearn.pipeline import Pipeline

from brainfeat.embedding.embedder import BrainFoundEmbedder
from brainfeat.embedding.regions import RegionAtlas
from brainfeat.embedding.subject_encoder import SubjectEncoder
from brainfeat.embedding.tokens import SubjectTokens, stream_tokens
from brainfeat.evaluation.columns import check_order
from brainfeat.exceptions import ConfigError, InputError
from brainfeat.io.volumes import to_image
from brainfeat.models.threads import resolve_n_jobs
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.preprocessing.resampling import resample
from brainfeat.reporting.attribution_maps import Attribution, NativeMaps
from brainfeat.reporting.decisions import decision_function, decision_gradient
from brainfeat.reporting.template_regions import template_regions
from brainfeat.reporting.voxel_maps import attribute_voxels
from brainfeat.volume import Geometry, Volume

AttributionMethod = Literal["tokens", "occlusion", "integrated_gradients"]

Floats = NDArray[np.float64]
# Of maps of subjects whose tokens lie on grids of their own.
_SHARED_SHAPE, _SHARED_SPACING = (40, 52, 40), 4.0  # voxels, mm


def attribution(
    pipeline: Pipeline,
    X: Any,
    y: Any = None,
    *,
    labels_img: Any = None,
    cv: Any = None,
    groups: Any = None,
    method: AttributionMethod = "tokens",
) -> Attribution:
    """Compute which parts of the brain the decisions of a classifier depend on.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted; its first step is a `BrainFoundEmbedder` that pools by ``"mean"`` or
        ``"regions"``, and its end has ``decision_function``, ``predict_proba`` or
        ``predict``, for two classes or a number.
    X : list, Series, DataFrame, path-like or image
        Subjects, as for the embedder. Use held-out subjects, or ``cv``: decisions on
        training subjects depend on their noise, too.
    y : array-like of shape (n_subjects,), optional
        Two classes: importance is then the contribution to their difference.
    labels_img : path-like, nibabel image or mapping, optional
        Regions, as for the embedder; by default `template_regions`.
    cv : int or splitter, optional
        Fit the steps after the embedder again in each fold, so that every subject of
        ``X`` is held out. Needs ``y``.
    groups : array-like of shape (n_subjects,), optional
        Passed to ``cv``.
    method : {"tokens", "occlusion", "integrated_gradients"}
        How maps are made: from the contributions of the patch tokens, at no cost; by
        occlusion of blocks of voxels, some hundred passes a subject; or by integrated
        gradients [1]_ of the voxels, some ten passes. The latter two need captum.

    Returns
    -------
    Attribution
        Regions and maps.

    Raises
    ------
    ConfigError
        If the pipeline or an option is not supported, or ``cv`` does not hold out each
        subject once.
    InputError
        If ``X`` and ``y`` differ in length or in the order of their indices, or
        ``cv`` comes without ``y``.
    MissingDependencyError
        If captum is needed and not installed.

    Notes
    -----
    The tokens are replaced after the encoder. They share context with their
    neighbours, so maps are blurred, and part of a region's effect is attributed to its
    neighbours. Maps linearise a classifier that is not linear.

    References
    ----------
    .. [1] Sundararajan, Taly & Yan, "Axiomatic attribution for deep networks", ICML
       2017.
    """
    embedder, head = _split(pipeline)
    methods = get_args(AttributionMethod)
    if method not in methods:
        raise ConfigError(f"method: expected one of {methods}, got {method!r}.")
    check_order(X, y=y, groups=groups)
    encoder, table = embedder.read_subjects(X)
    labels = _check_labels(y, cv, len(table.rows))
    # Fail early if this pooling has no weights of tokens.
    encoder.pooler.check_positions()
    folds = _folds(cv, labels, groups, len(table.rows))
    names = [subject.participant_id for subject in table.rows]
    stream = stream_tokens(encoder, table.rows, n_jobs=resolve_n_jobs(embedder.n_jobs))
    with closing(stream) as outcomes:
        keep_voxels = method != "tokens"
        tokens = (outcome.unwrap() for outcome in outcomes)
        subjects = [one if keep_voxels else one.without_voxels() for one in tokens]
    atlas = RegionAtlas.load(template_regions() if labels_img is None else labels_img)
    return attribute_tokens(
        subjects, names, encoder, head, atlas, labels=labels, folds=folds, method=method
    )


def attribute_tokens(
    subjects: Sequence[SubjectTokens],
    names: Sequence[str],  # index of the effects
    encoder: SubjectEncoder,
    head: Any,  # what follows the embedder; fitted again in each fold, if there are any
    atlas: RegionAtlas,
    *,
    labels: NDArray[Any] | None,
    folds: Sequence[tuple[Any, Any]] | None,
    method: AttributionMethod = "tokens",
) -> Attribution:
    """Compute `attribution` for subjects that are already encoded."""
    regions = _RegionWeights(atlas, encoder)
    pools = [_pool_weights(subject, encoder) for subject in subjects]
    rows = np.stack([_pool(s, p) for s, p in zip(subjects, pools, strict=True)])
    everyone = np.arange(len(subjects))
    effects = np.zeros((len(subjects), len(atlas.names)))
    maps: list[Volume | None] = [None] * len(subjects)
    for train, test in folds or [(everyone, everyone)]:
        fitted = head
        if folds is not None and labels is not None:
            fitted = clone(head).fit(rows[train], labels[train])
        average = _average([subjects[i] for i in train])
        gradients = decision_gradient(fitted, rows[train], rows[test])
        baseline: NDArray[np.floating] | None = None  # only voxel methods need it
        for index, gradient in zip(test, gradients, strict=True):
            subject, pool = subjects[index], pools[index]
            difference = subject.tokens - average  # I J K D, or of one token
            weights = regions.of(subject)  # R I J K
            effects[index] = _ablate(rows[index], pool, difference, weights, fitted)
            if method == "tokens":
                values = _contributions(pool, difference, gradient)
                maps[index] = Volume(values, subject.geometry)
                continue
            if baseline is None:
                baseline = _mean_volume([subjects[i] for i in train])
            given = subject.processed
            averages = np.zeros_like(given.data) + baseline
            voxels = attribute_voxels(given, averages, encoder, gradient, method)
            maps[index] = Volume(voxels, given.geometry)
    volumes = [volume for volume in maps if volume is not None]
    fractions = np.mean([_region_fractions(s, regions.of(s)) for s in subjects], axis=0)
    shared = _on_one_grid(volumes)
    frame = pd.DataFrame(effects, index=list(names), columns=list(atlas.names))
    return Attribution(
        effects=frame,
        importance=_rank(frame, fractions, labels),
        maps=NativeMaps(volumes, subjects, encoder.preprocessor),
        template_maps=tuple(to_image(volume) for volume in shared),
        group_img=_group_map(shared, labels),
    )


class _RegionWeights:
    """Weights of each region's tokens; those of the last grid are kept."""

    def __init__(self, atlas: RegionAtlas, encoder: SubjectEncoder) -> None:
        self._atlas, self._grid = atlas, encoder.grid
        self._last: tuple[Geometry, NDArray[Any]] | None = None

    def of(self, subject: SubjectTokens) -> NDArray[Any]:
        """Return the weights on a subject's grid, of shape (R, I, J, K)."""
        geometry = subject.processed.geometry
        if self._last is None or not self._last[0].is_close(geometry, tolerance=1e-9):
            regions = self._atlas.weights(geometry, self._grid)
            arranged = [self._grid.arrange_tokens(weights) for weights in regions]
            self._last = geometry, np.stack(arranged)
        return self._last[1]


def _on_one_grid(volumes: Sequence[Volume]) -> list[Volume]:
    """Interpolate maps on a grid of the template, if theirs differ."""
    first = volumes[0].geometry
    if all(volume.geometry.is_close(first) for volume in volumes):
        return [*volumes]
    grid = Preprocessor(shape=_SHARED_SHAPE, spacing=_SHARED_SPACING).geometry
    maps = (resample(volume, grid, np.eye(4)) for volume in volumes)
    return [Volume(np.asarray(values, np.float32), grid) for values in maps]


def _split(pipeline: Any) -> tuple[BrainFoundEmbedder, Pipeline]:
    has_steps = isinstance(pipeline, Pipeline) and len(pipeline) > 1
    if not has_steps or not isinstance(pipeline[0], BrainFoundEmbedder):
        raise ConfigError(
            "pipeline: expected a Pipeline of a BrainFoundEmbedder and further "
            f"steps, got {type(pipeline).__name__}."
        )
    return pipeline[0], pipeline[1:]


def _check_labels(y: Any, cv: Any, n_subjects: int) -> NDArray[Any] | None:
    if y is None:
        if cv is not None:
            raise InputError("cv: needs y to fit again in each fold, got none.")
        return None
    labels = np.asarray(y)
    if len(labels) != n_subjects or len(np.unique(labels)) != 2:
        raise InputError(
            f"y: expected two classes for {n_subjects} subjects, got "
            f"{len(np.unique(labels))} for {len(labels)}."
        )
    return labels


def _folds(
    cv: Any, labels: NDArray[Any] | None, groups: Any, n_subjects: int
) -> list[tuple[Any, Any]] | None:
    if cv is None:
        return None
    splitter = check_cv(cv, labels, classifier=True)
    folds = list(splitter.split(np.zeros(n_subjects), labels, groups))
    tested = np.concatenate([test for _, test in folds])
    n_tests = np.bincount(tested, minlength=n_subjects)
    if (n_tests != 1).any():
        raise ConfigError(
            "cv: expected folds that hold out each subject once, as KFold's do, got "
            f"{(n_tests == 0).sum()} subjects in none and {(n_tests > 1).sum()} in "
            "several."
        )
    return folds


def _pool_weights(subject: SubjectTokens, encoder: SubjectEncoder) -> Floats:
    """Return weights of shape (G, I, J, K) whose sums of tokens are the embedding."""
    weights = encoder.token_weights(subject.processed)
    return np.stack([encoder.grid.arrange_tokens(part) for part in weights])


def _pool(subject: SubjectTokens, weights: Floats) -> Floats:
    pooled: Floats = np.einsum("gijk,ijkd->gd", weights, subject.tokens, optimize=True)
    return pooled.ravel()


def _average(subjects: Sequence[SubjectTokens]) -> Floats:
    """Return the mean token at each position, weighted by the fraction of brain.

    If the grids of subjects differ in size, positions do not correspond: then it is the
    mean over all positions, of shape (1, 1, 1, D).
    """
    shapes = {subject.tokens.shape for subject in subjects}
    if len(shapes) > 1:
        parts = [np.einsum("ijk,ijkd->d", s.fractions, s.tokens) for s in subjects]
        weight = sum(float(subject.fractions.sum()) for subject in subjects)
        return np.asarray(sum(parts) / max(weight, 1e-6))[None, None, None]
    total = np.zeros(subjects[0].tokens.shape)
    weights = np.zeros(subjects[0].fractions.shape)
    for subject in subjects:
        total += subject.fractions[..., None] * subject.tokens
        weights += subject.fractions
    return np.asarray(total / np.maximum(weights, 1e-6)[..., None])


def _mean_volume(subjects: Sequence[SubjectTokens]) -> NDArray[np.floating]:
    """Return the average volume, or the average voxel if shapes differ."""
    if len({subject.processed.data.shape for subject in subjects}) > 1:
        means = [subject.processed.data.mean(axis=(1, 2, 3)) for subject in subjects]
        return np.asarray(np.mean(means, axis=0), np.float32)[:, None, None, None]
    # One by one: a stack of all volumes takes much memory.
    total = np.zeros_like(subjects[0].processed.data)
    for subject in subjects:
        total += subject.processed.data
    return total / np.float32(len(subjects))


def _ablate(
    row: Floats, pool: Floats, difference: Floats, regions: Floats, head: Any
) -> Floats:
    """Return the drop of the decision without each region, of shape (R,)."""
    flat = difference.reshape(-1, difference.shape[-1])  # IJK D
    weights = pool[None] * regions[:, None]  # R G I J K
    lost = weights.reshape(*weights.shape[:2], -1) @ flat  # R G D
    ablated = row - lost.reshape(len(regions), -1)
    decisions = decision_function(head, np.vstack([row[None], ablated]))
    return np.asarray(decisions[0] - decisions[1:])


def _contributions(pool: Floats, difference: Floats, gradient: Floats) -> Floats:
    slopes = gradient.reshape(len(pool), -1)  # G D
    operands = (pool, difference, slopes)
    values: Floats = np.einsum("gijk,ijkd,gd->ijk", *operands, optimize=True)
    return values.astype(np.float32)


def _region_fractions(subject: SubjectTokens, regions: Floats) -> Floats:
    fractions = subject.fractions / subject.fractions.sum()
    return np.asarray((regions * fractions).sum(axis=(1, 2, 3)))


def _rank(
    effects: pd.DataFrame, fractions: Floats, labels: NDArray[Any] | None
) -> pd.DataFrame:
    effect = _contrast(effects.to_numpy(), labels)
    importance = effect / np.maximum(fractions, 1e-9)
    columns = {"share": fractions, "effect": effect, "importance": importance}
    table = pd.DataFrame(columns, index=effects.columns)
    return table.sort_values("importance", ascending=False)


def _contrast(values: NDArray[Any], labels: NDArray[Any] | None) -> NDArray[Any]:
    """Mean of the second class less that of the first, or mean absolute value."""
    if labels is None:
        return np.asarray(np.abs(values).mean(axis=0))
    first, second = (values[labels == name].mean(axis=0) for name in np.unique(labels))
    return np.asarray(second - first)


def _group_map(maps: Sequence[Volume], labels: NDArray[Any] | None) -> nib.Nifti1Image:
    mean = _contrast(np.stack([volume.data for volume in maps]), labels)
    return to_image(Volume(mean.astype(np.float32), maps[0].geometry))
