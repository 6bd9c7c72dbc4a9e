"""Folds that keep groups together, and permutations within folds."""

__all__ = [
    "Fold",
    "check_repeats",
    "draw_groups",
    "inner_folds",
    "number_folds",
    "outer_folds",
    "permute_labels",
    "repeat_folds",
]

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from brainfeat.configs import is_integer
from brainfeat.exceptions import ConfigError, InputError

Rows = NDArray[np.intp]
Labels = NDArray[Any]  # flags, codes or numbers
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
    strata: NDArray[Any], groups: Rows, n_repeats: int, seed: int
) -> list[list[Fold]]:
    """Split into outer folds several times; each repeat adds one to the seed."""
    classes = strata.astype(np.intp)
    return [outer_folds(classes, groups, seed + repeat) for repeat in range(n_repeats)]


def inner_folds(groups: Rows, seed: int) -> list[Fold]:
    """Split training rows, unstratified: permuted labels use the same folds."""
    n_groups = len(np.unique(groups))
    if n_groups < 2:
        raise InputError(f"expected at least two training subjects, got {n_groups}.")
    n_folds = min(_N_FOLDS, n_groups)
    splitter = GroupKFold(n_folds, shuffle=True, random_state=seed)
    return list(splitter.split(groups, groups=groups))


def number_folds(folds: Sequence[Fold]) -> Rows:
    """Return for each row the number of the fold that tests it."""
    numbers = np.zeros(sum(len(test) for _, test in folds), dtype=np.intp)
    for number, (_, test) in enumerate(folds):
        numbers[test] = number
    return numbers


def permute_labels(
    labels: Labels,
    groups: Rows,
    blocks: Rows,
    n_permutations: int,
    generator: Generator,
) -> Labels:
    """Permute the labels of whole groups within blocks: (n_rows, n_permutations)."""
    # A group belongs to the block of its first row. If the label differs within any
    # group, single rows are permuted.
    _, first, members = np.unique(groups, return_index=True, return_inverse=True)
    if (labels[first][members] != labels).any():
        first, members = np.arange(len(labels)), np.arange(len(labels))
    group_labels, group_blocks = labels[first], blocks[first]
    permuted = np.empty((len(first), n_permutations), dtype=labels.dtype)
    for block in np.unique(group_blocks):
        rows = np.flatnonzero(group_blocks == block)
        column = np.repeat(group_labels[rows][:, None], n_permutations, axis=1)
        permuted[rows] = generator.permuted(column, axis=0)
    return permuted[members]


def draw_groups(
    strata: Labels, groups: Rows, n_groups: int, generator: Generator
) -> Fold:
    """Draw training groups, stratified by their first rows; test on the rest."""
    names, first = np.unique(groups, return_index=True)
    classes = strata[first].astype(np.intp)
    counts = _allocate(n_groups, np.bincount(classes))
    chosen = [
        generator.permutation(names[classes == code])[: counts[code]]
        for code in reversed(range(len(counts)))
    ]
    is_drawn = np.isin(groups, np.concatenate(chosen))
    return np.flatnonzero(is_drawn), np.flatnonzero(~is_drawn)


def _allocate(n_groups: int, sizes: Rows) -> Rows:
    """Divide a number in proportion to sizes, at least one for each size above 0."""
    exact = n_groups * sizes / sizes.sum()
    counts: Rows = np.maximum(np.floor(exact), sizes > 0).astype(np.intp)
    while counts.sum() != n_groups:
        # One by one, at the stratum that is farthest from its exact part.
        step = 1 if counts.sum() < n_groups else -1
        can_change = counts < sizes if step > 0 else counts > 1
        counts[np.where(can_change, step * (exact - counts), -np.inf).argmax()] += step
    return counts
