from types import SimpleNamespace

import numpy as np
import pytest
import torch

from brainfeat.segmentation import validation
from brainfeat.segmentation.modalities import trained_choices
from brainfeat.segmentation.plan import TrainingPlan
from brainfeat.segmentation.store import LabelledVolumes
from brainfeat.segmentation.validation import TrainingData, cross_validate

PLAN = TrainingPlan(
    n_steps=7, learning_rate=1e-2, batch_size=1, freeze_encoder=True, seed=3
)
GROUPS = np.array([4, 4, 9, 2, 7, 7, 7, 1])


def test_each_person_is_held_out_once():
    splits = validation._split_folds(GROUPS, 3, seed=0)
    held_out = np.concatenate([split.held_out for split in splits])
    assert sorted(held_out) == list(range(len(GROUPS)))
    for split in splits:
        assert not set(GROUPS[split.train]) & set(GROUPS[split.held_out])
        assert len(split.train) + len(split.held_out) == len(GROUPS)
    assert len(validation._split_folds(GROUPS, 99, seed=0)) == 5
    assert validation._split_folds(np.zeros(6, int), 3, seed=0) == []


def test_choices_of_a_training_are_those_of_subjects_and_with_one_hidden():
    present = np.array([[1, 1, 1], [1, 1, 1], [0, 1, 1]], bool)
    own = [(True, True, True), (False, True, True)]
    assert trained_choices(present, may_hide=False) == own
    hidden = {(1, 1, 0), (1, 0, 1), (0, 1, 1), (0, 1, 0), (0, 0, 1)}
    assert {*trained_choices(present, may_hide=True)} == {(1, 1, 1), *hidden}


class Store:
    """Eight subjects, of which the first half of the slices is of class 1."""

    classes = (0, 1)
    has_class = np.ones((8, 2), bool)
    present = np.ones((8, 1), bool)

    def load(self, _row):
        labels = torch.zeros(1, 1, 6, 4, 2)
        labels[:, :, :3] = 1
        coarse = torch.zeros(1, 2, 3, 2, 1)
        coarse[:, -1, 1:] = 1  # the found brain: two of three slices
        is_there = torch.ones(1, 1, dtype=torch.bool)
        return LabelledVolumes(coarse, labels * 0, labels, is_there, is_there)


@pytest.mark.parametrize(("in_brain", "dice"), [(False, 6 / 9), (True, 2 / 7)])
def test_dice_is_of_the_subjects_that_a_fold_did_not_see(monkeypatch, in_brain, dice):
    """A network that predicts class 1 everywhere, and is never trained."""
    seen = []
    monkeypatch.setattr(
        validation, "train", lambda _n, _s, split, plan: seen.append((split, plan))
    )

    def classify(*_, box):
        assert (box is not None) == in_brain
        return np.ones((6, 4, 2), np.int64)

    space = SimpleNamespace(
        allow_missing=False, modalities=("FLAIR",), modality_indices=[0]
    )
    network = SimpleNamespace(
        space=space,
        device=torch.device("cpu"),
        classify=classify,
        to_slices=lambda x: x,
    )
    data = TrainingData(
        checkpoint=None,
        space=space,
        store=Store(),
        groups=GROUPS,
        device=torch.device("cpu"),
    )
    monkeypatch.setattr(TrainingData, "init_network", lambda *_: network)
    scores = cross_validate(data, PLAN, n_folds=3, in_brain=in_brain)
    assert len(seen) == 3
    assert {plan.n_steps for _, plan in seen} == {4}
    assert scores.dice.shape[1] == 1
    assert scores.mean == pytest.approx(dice, abs=0.08)
    assert scores.by_choice == {"FLAIR": pytest.approx(scores.mean)}
