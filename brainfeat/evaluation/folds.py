"""Folds that keep groups together, and permutations within folds."""

__all__ = [
    "Fold",
    "check_repeats",
    "draw_groups",
    "inner_folds",
    "outer_folds",
    "permute_labels",
    "repeat_folds",
]

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from brainfeat.configs import is_integer
from brainfeat.exceptions import ConfigError, InputError

Rows = NDArray[np.intp]
Flags = NDArray[np.bool_]
Fold = tuple[Rows, Rows]

_N_FOLDS = 5


def check_repeats(n_repeats: int, n_permutations: int) -> None:
    """Check the numbers of repeats and permutations."""
    if not all(is_integer(n, at_least=1) for n in (n_repeats, n_permutations)):
        raise ConfigError(
            "expected at least one repeat and one permutation, got "
            f"n_repeats={n_repeats!r}, n_permutations={n_permutations!r}."
        )


def outer_folds(labels: NDArray[np.intp], groups: Rows, seed: int) -> list[Fold]:
    """Split into grouped, stratified folds: five, or as the rarest class allows."""
    counts = [len(np.unique(groups[labels == label])) for label in np.unique(labels)]
    rarest = min(counts)
    if rarest < 2:
        raise InputError(f"expected at least two subjects of each class, got {rarest}.")
    n_folds = min(_N_FOLDS, rarest)
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    return list(splitter.split(labels, labels, groups))


def repeat_folds(
    labels: Flags, groups: Rows, n_repeats: int, seed: int
) -> list[list[Fold]]:
    """Split into outer folds several times; each repeat adds one to the seed."""
    classes = labels.astype(np.intp)
    return [outer_folds(classes, groups, seed + repeat) for repeat in range(n_repeats)]


def inner_folds(groups: Rows, seed: int) -> list[Fold]:
    """Split training rows, unstratified: permuted labels use the same folds."""
    n_groups = len(np.unique(groups))
    if n_groups < 2:
        raise InputError(f"expected at least two training subjects, got {n_groups}.")
    n_folds = min(_N_FOLDS, n_groups)
    splitter = GroupKFold(n_folds, shuffle=True, random_state=seed)
    return list(splitter.split(groups, groups=groups))


def permute_labels(
    labels: Flags, groups: Rows, blocks: Rows, n_permutations: int, generator: Generator
) -> Flags:
    """Permute the labels of whole groups within blocks: (n_rows, n_permutations)."""
    # A group belongs to the block of its first row. If the label differs within any
    # group, single rows are permuted.
    _, first, members = np.unique(groups, return_index=True, return_inverse=True)
    if (labels[first][members] != labels).any():
        first, members = np.arange(len(labels)), np.arange(len(labels))
    group_labels, group_blocks = labels[first], blocks[first]
    permuted = np.empty((len(first), n_permutations), dtype=np.bool_)
    for block in np.unique(group_blocks):
        rows = np.flatnonzero(group_blocks == block)
        column = np.repeat(group_labels[rows][:, None], n_permutations, axis=1)
        permuted[rows] = generator.permuted(column, axis=0)
    return permuted[members]


def draw_groups(
    labels: Flags, groups: Rows, n_groups: int, generator: Generator
) -> Fold:
    """Draw training groups, stratified by their first rows; test on the rest."""
    names, first = np.unique(groups, return_index=True)
    classes = labels[first]
    # At least one group of each class.
    lowest, highest = classes.any(), n_groups - (~classes).any()
    n_positive = int(np.clip(round(n_groups * classes.mean()), lowest, highest))
    positive = generator.permutation(names[classes])[:n_positive]
    negative = generator.permutation(names[~classes])[: n_groups - n_positive]
    is_drawn = np.isin(groups, [*positive, *negative])
    return np.flatnonzero(is_drawn), np.flatnonzero(~is_drawn)
