"""Folds that keep groups together, and permutations that keep folds as they are."""

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
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from brainfeat.configs import is_integer
from brainfeat.exceptions import ConfigError, InputError

Rows = NDArray[np.intp]
Fold = tuple[Rows, Rows]

_N_FOLDS = 5


def check_repeats(n_repeats: int, n_permutations: int) -> None:
    """Check how often labels are cross-validated.

    Parameters
    ----------
    n_repeats : int
        Times, each with other folds.
    n_permutations : int
        Permutations of the labels.

    Raises
    ------
    ConfigError
        If one is no positive integer.
    """
    if not all(is_integer(n, at_least=1) for n in (n_repeats, n_permutations)):
        raise ConfigError(
            "expected at least one repeat and one permutation, got "
            f"n_repeats={n_repeats!r}, n_permutations={n_permutations!r}."
        )


def outer_folds(labels: NDArray[np.intp], groups: Rows, seed: int) -> list[Fold]:
    """Split rows so that folds share no group, and labels are spread evenly.

    Parameters
    ----------
    labels : ndarray of int of shape (n_rows,)
        Classes.
    groups : ndarray of int of shape (n_rows,)
        Subject of each row.
    seed : int
        Of the shuffling.

    Returns
    -------
    list of (train rows, test rows)
        Five folds, or as many as the rarest class has groups.

    Raises
    ------
    InputError
        If a class has a single group.
    """
    counts = [len(np.unique(groups[labels == label])) for label in np.unique(labels)]
    if min(counts) < 2:
        raise InputError(
            f"expected at least two subjects of each class, got {min(counts)}."
        )
    n_folds = min(_N_FOLDS, *counts)
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    return list(splitter.split(labels, labels, groups))


def repeat_folds(
    labels: NDArray[np.bool_], groups: Rows, n_repeats: int, seed: int
) -> list[list[Fold]]:
    """Split rows several times, each with other folds.

    Parameters
    ----------
    labels : ndarray of bool of shape (n_rows,)
        Classes.
    groups : ndarray of int of shape (n_rows,)
        Subject of each row.
    n_repeats : int
        Times.
    seed : int
        Of the shuffling of the first; each other adds one.

    Returns
    -------
    list of list of (train rows, test rows)
        As from `outer_folds`.
    """
    classes = labels.astype(np.intp)
    return [outer_folds(classes, groups, seed + repeat) for repeat in range(n_repeats)]


def inner_folds(groups: Rows, seed: int) -> list[Fold]:
    """Split training rows to choose a penalty, whatever their labels are.

    Parameters
    ----------
    groups : ndarray of int of shape (n_rows,)
        Subject of each row; at least two subjects.
    seed : int
        Of the shuffling.

    Returns
    -------
    list of (train rows, held-out rows)
        Not stratified, so that permuted labels meet the folds as true ones do.

    Raises
    ------
    InputError
        If all rows are of one subject.
    """
    n_groups = len(np.unique(groups))
    if n_groups < 2:
        raise InputError(
            f"expected at least two subjects to learn from, got {n_groups}."
        )
    n_folds = min(_N_FOLDS, n_groups)
    splitter = GroupKFold(n_folds, shuffle=True, random_state=seed)
    return list(splitter.split(groups, groups=groups))


def permute_labels(
    labels: NDArray[np.bool_],
    groups: Rows,
    blocks: Rows,
    n_permutations: int,
    generator: np.random.Generator,
) -> NDArray[np.bool_]:
    """Exchange the labels of whole groups, within blocks.

    Parameters
    ----------
    labels : ndarray of bool of shape (n_rows,)
        True labels.
    groups : ndarray of int of shape (n_rows,)
        Subject of each row. Where the label differs within a subject, rows are
        exchanged, each for itself.
    blocks : ndarray of int of shape (n_rows,)
        Test fold, or fold and site, of each row; each block keeps its counts.
    n_permutations : int
        How many to draw.
    generator : Generator
        Source of randomness.

    Returns
    -------
    ndarray of bool of shape (n_rows, n_permutations)
        Permuted labels.
    """
    _, first, members = np.unique(groups, return_index=True, return_inverse=True)
    if (labels[first][members] != labels).any():
        first, members = np.arange(len(labels)), np.arange(len(labels))
    of_group, block_of_group = labels[first], blocks[first]
    drawn = np.empty((len(first), n_permutations), dtype=np.bool_)
    for block in np.unique(block_of_group):
        place = np.flatnonzero(block_of_group == block)
        column = np.repeat(of_group[place][:, None], n_permutations, axis=1)
        drawn[place] = generator.permuted(column, axis=0)
    return drawn[members]


def draw_groups(
    labels: NDArray[np.bool_],
    groups: Rows,
    n_groups: int,
    generator: np.random.Generator,
) -> Fold:
    """Draw groups to learn from, of each class its share; the others are for testing.

    Parameters
    ----------
    labels : ndarray of bool of shape (n_rows,)
        Labels; a group counts for the class of its first row.
    groups : ndarray of int of shape (n_rows,)
        Subject of each row.
    n_groups : int
        Groups to draw.
    generator : Generator
        Source of randomness.

    Returns
    -------
    train, test : ndarray of int
        Rows.
    """
    names, first = np.unique(groups, return_index=True)
    classes = labels[first]
    # One of each class at least, of those that groups count for.
    fewest, most = classes.any(), n_groups - (~classes).any()
    n_positive = int(np.clip(round(n_groups * classes.mean()), fewest, most))
    positive = generator.permutation(names[classes])[:n_positive]
    negative = generator.permutation(names[~classes])[: n_groups - n_positive]
    is_drawn = np.isin(groups, [*positive, *negative])
    return np.flatnonzero(is_drawn), np.flatnonzero(~is_drawn)
