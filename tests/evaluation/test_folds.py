import numpy as np
import pytest

from brainfeat.evaluation.folds import (
    check_repeats,
    draw_groups,
    inner_folds,
    outer_folds,
    permute_labels,
    repeat_folds,
)
from brainfeat.exceptions import ConfigError, InputError

GROUPS = np.repeat(np.arange(15), 2)
LABELS = (GROUPS % 3 == 0).astype(int)


@pytest.mark.parametrize("counts", [(0, 1), (1, -1), (1.5, 1), (True, 1), (1, "3")])
def test_numbers_of_repeats_must_be_positive_integers(counts):
    with pytest.raises(ConfigError, match=f"n_repeats={counts[0]!r}"):
        check_repeats(*counts)
    check_repeats(np.int64(1), 1)


@pytest.mark.parametrize(
    "folds",
    [outer_folds(LABELS, GROUPS, 0), inner_folds(GROUPS, 0)],
    ids=["outer", "inner"],
)
def test_groups_stay_on_one_side_and_each_row_is_held_out_once(folds):
    held_out = np.concatenate([test for _, test in folds])
    assert sorted(held_out) == list(range(30))
    for train, test in folds:
        assert not set(GROUPS[train]) & set(GROUPS[test])


def test_folds_are_stratified():
    for _, test in outer_folds(LABELS, GROUPS, 1):
        assert len(set(GROUPS[test][LABELS[test] == 1])) == 1


def test_repeats_have_other_folds():
    first, second = repeat_folds(LABELS == 1, GROUPS, 2, 5)
    for folds, seed in ((first, 5), (second, 6)):
        for (_, test), (_, expected) in zip(
            folds, outer_folds(LABELS, GROUPS, seed), strict=True
        ):
            np.testing.assert_array_equal(test, expected)
    assert [*first[0][1]] != [*second[0][1]]


def test_few_subjects_give_fewer_folds():
    assert len(outer_folds(np.array([0, 0, 1, 1, 1]), np.arange(5), 0)) == 2
    with pytest.raises(InputError, match="two subjects of each class, got 1"):
        outer_folds(np.array([0, 0, 1, 1]), np.array([0, 1, 2, 2]), 0)
    assert len(inner_folds(np.array([0, 0, 1]), 0)) == 2
    with pytest.raises(InputError, match="two training subjects, got 1"):
        inner_folds(np.zeros(4, dtype=int), 0)


def test_permutation_moves_whole_groups_within_their_block():
    blocks = (GROUPS >= 9).astype(int)
    generator = np.random.default_rng(0)
    permuted = permute_labels(LABELS == 1, GROUPS, blocks, 50, generator)
    assert permuted.shape == (30, 50)
    np.testing.assert_array_equal(permuted[::2], permuted[1::2])
    for block in (0, 1):
        counts = permuted[blocks == block].sum(axis=0)
        assert set(counts) == {LABELS[blocks == block].sum()}
    assert len(np.unique(permuted, axis=1).T) > 10


def test_labels_that_vary_within_subjects_are_permuted_by_row():
    labels = np.arange(30) % 2 == 0
    permuted = permute_labels(
        labels, GROUPS, np.zeros(30, dtype=int), 20, np.random.default_rng(0)
    )
    assert set(permuted.sum(axis=0)) == {15}
    assert (permuted[::2] == permuted[1::2]).any()


def test_draw_is_stratified():
    for size in (3, 6, 9):
        train, test = draw_groups(LABELS == 1, GROUPS, size, np.random.default_rng(1))
        assert len(set(GROUPS[train])) == size
        assert len(set(GROUPS[train][LABELS[train] == 1])) == size // 3
        assert not set(GROUPS[train]) & set(GROUPS[test])
        assert len(train) + len(test) == 30


@pytest.mark.parametrize("first", [False, True])
def test_draw_has_the_requested_size_if_all_groups_are_of_one_class(rng, first):
    labels, groups = np.tile([first, not first], 14), np.repeat(np.arange(14), 2)
    train, test = draw_groups(labels, groups, 10, rng)
    assert len(np.unique(groups[train])) == 10
    assert len(np.unique(groups[test])) == 4
