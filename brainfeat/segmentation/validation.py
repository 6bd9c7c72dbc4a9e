"""Dice of held-out subjects, by cross-validation over people."""

__all__ = ["HeldOutScores", "TrainingData", "cross_validate"]

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.metrics import dice_scores
from brainfeat.models.threads import map_in_threads
from brainfeat.progress import track
from brainfeat.segmentation.boxes import find_box
from brainfeat.segmentation.inputs import SegmentationSpace
from brainfeat.segmentation.modalities import trained_choices
from brainfeat.segmentation.network import SegmentationNetwork
from brainfeat.segmentation.plan import Split, TrainingPlan
from brainfeat.segmentation.store import LabelledStore
from brainfeat.segmentation.training import init_network, train
from brainfeat.segmentation.warm_start import DecoderStart

# Trainings of folds are shorter: the second half of the steps adds little.
_FOLD_STEPS = 0.5
_MAX_SCORED = 4  # subjects of a fold, since segmenting takes long
_MAX_THREADS = 2  # each needs the memory of a training

Choice = tuple[bool, ...]  # which modalities are shown


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingData:
    """Labelled subjects, and the encoder that decoders learn from."""

    checkpoint: Checkpoint
    space: SegmentationSpace
    store: LabelledStore
    groups: NDArray[np.int64]  # the person of each subject
    device: torch.device
    start: DecoderStart | None = None
    names: Mapping[int, str] = field(default_factory=dict)  # of labels

    def init_network(self, split: Split, plan: TrainingPlan) -> SegmentationNetwork:
        """Create a network to train on a split."""
        return init_network(
            *(self.checkpoint, self.space, self.store, split, plan, self.device),
            start=self.start,
            names=self.names,
        )


@dataclass(frozen=True, eq=False)
class HeldOutScores:
    """Dice coefficients of subjects by networks that did not see them."""

    dice: NDArray[np.float64]  # (n_scored, n_classes - 1), with all their modalities
    by_choice: dict[str, float]  # mean for each choice of modalities; NaN if unknown

    @property
    def mean(self) -> float:
        """Mean over subjects and classes; NaN if none was scored."""
        return _mean(self.dice)

    @property
    def by_class(self) -> list[float]:
        """Mean over subjects of each class."""
        return [_mean(column) for column in self.dice.T]


def cross_validate(
    data: TrainingData,
    plan: TrainingPlan,
    *,
    n_folds: int,
    in_brain: bool,
    verbose: int = 0,
) -> HeldOutScores:
    """Train on all folds of people but one, and score those of this one.

    There are no scores of a single person.
    """
    store = data.store
    splits = _split_folds(data.groups, n_folds, plan.seed)
    plan = replace(plan, n_steps=max(1, math.ceil(plan.n_steps * _FOLD_STEPS)))

    def score(split: Split) -> list[dict[Choice, NDArray[np.float64]]]:
        network = data.init_network(split, plan)
        train(network, store, split._replace(held_out=split.train[:0]), plan)
        has_foreground = store.has_class[split.held_out, 1:].any(axis=1)
        rows = split.held_out[has_foreground][:_MAX_SCORED]
        learnt = np.asarray(store.has_class[split.train].any(axis=0))
        return [
            _score_subject(network, store, int(row), learnt, in_brain=in_brain)
            for row in rows
        ]

    scored: list[dict[Choice, NDArray[np.float64]]] = []
    with map_in_threads(
        score, splits, device=data.device, max_threads=_MAX_THREADS
    ) as results:
        for result in track(
            results,
            total=len(splits),
            description="validating",
            show=verbose > 0 and len(splits) > 0,
        ):
            scored += result
    return _collect(scored, store, data.space)


def _split_folds(groups: NDArray[np.int64], n_folds: int, seed: int) -> list[Split]:
    """Split people at random into folds of about equal numbers."""
    names = np.random.RandomState(seed).permutation(np.unique(groups))
    n_folds = min(n_folds, len(names))
    if n_folds < 2:
        return []
    folds = [np.isin(groups, names[fold::n_folds]) for fold in range(n_folds)]
    return [Split(np.flatnonzero(~fold), np.flatnonzero(fold)) for fold in folds]


@torch.inference_mode()
def _score_subject(
    network: SegmentationNetwork,
    store: LabelledStore,
    row: int,
    learnt: NDArray[np.bool_],
    *,
    in_brain: bool,
) -> dict[Choice, NDArray[np.float64]]:
    """Return the Dice of each class for each choice of a subject's modalities.

    Classes that the training did not have, of whom nothing is known, are NaN.
    """
    volumes = store.load(row).to(network.device)
    size = volumes.labels.shape[2:]
    brain = F.interpolate(volumes.coarse[:, -1:], size, mode="trilinear")
    is_brain = network.to_slices(brain)[0, 0].cpu().numpy() >= 0.5
    # Voxels that lie partly in the brain are next to the found brain.
    box = find_box(volumes.coarse[0, -1].cpu().numpy() > 0, 1) if in_brain else None
    truth = network.to_slices(volumes.labels)[0, 0].cpu().numpy()
    scores = {}
    for choice in _choices(store, network.space, row):
        shown = torch.tensor([choice], device=network.device)
        encoder_present = volumes.encoder_present.clone()
        indices = network.space.modality_indices
        encoder_present[:, indices] &= shown
        found = network.classify(
            *(volumes.coarse, volumes.fine, encoder_present, shown), box=box
        )
        found = found * is_brain if in_brain else found
        dice = dice_scores(truth, found, range(1, len(store.classes)))
        scores[choice] = np.where(learnt[1:], dice, np.nan)
    return scores


def _choices(store: LabelledStore, space: SegmentationSpace, row: int) -> list[Choice]:
    """List the choices of the training that a subject has, its own first."""
    own = store.present[row]
    trained = trained_choices(store.present, may_hide=space.allow_missing)
    smaller = [c for c in trained if not (np.array(c) & ~own).any()]
    return [tuple(map(bool, own)), *(c for c in smaller if c != tuple(own))]


def _collect(
    scored: Sequence[dict[Choice, NDArray[np.float64]]],
    store: LabelledStore,
    space: SegmentationSpace,
) -> HeldOutScores:
    dice = np.full((len(scored), len(store.classes) - 1), np.nan)
    for index, scores in enumerate(scored):
        dice[index] = next(iter(scores.values()))
    by_choice = {}
    for choice in trained_choices(store.present, may_hide=space.allow_missing):
        shown = zip(space.modalities, choice, strict=True)
        values = [scores[choice] for scores in scored if choice in scores]
        name = "+".join(modality for modality, is_shown in shown if is_shown)
        by_choice[name] = _mean(values)
    return HeldOutScores(dice, by_choice)


def _mean(values: NDArray[np.float64] | Iterable[NDArray[np.float64]]) -> float:
    flat = np.concatenate([np.zeros(0), *(np.ravel(value) for value in values)])
    known = flat[~np.isnan(flat)]
    return float(known.mean()) if len(known) else math.nan
