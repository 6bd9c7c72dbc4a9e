"""Settings of a training, and the split into training and held-out subjects."""

__all__ = ["Split", "TrainingPlan", "check_grid", "split_subjects"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from brainfeat.configs import Rule, is_integer, is_number
from brainfeat.exceptions import ConfigError

# Subjects of a step on an accelerator; one is enough for a CPU.
_ACCELERATOR_BATCH = 4
# Each validation segments all held-out subjects: more would take long.
_MAX_HELD_OUT = 4


_RULES = {
    "n_steps": Rule("a positive integer", lambda v: is_integer(v, at_least=1)),
    "batch_size": Rule(
        "'auto' or a positive integer",
        lambda v: v == "auto" or is_integer(v, at_least=1),
    ),
    "learning_rate": Rule("a positive number", lambda v: is_number(v) and v > 0),
    "freeze_encoder": Rule("True or False", lambda v: isinstance(v, bool | np.bool_)),
    "where": Rule("'brain' or 'head'", lambda v: v in ("brain", "head")),
    "n_folds": Rule("an integer of at least 0", lambda v: is_integer(v, at_least=0)),
    "validation_fraction": Rule(
        "a number in [0, 1)", lambda v: is_number(v) and 0 <= v < 1
    ),
}


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Settings of one training."""

    n_steps: int
    learning_rate: float  # peak, of the decoder
    batch_size: int  # subjects of a step
    freeze_encoder: bool
    seed: int

    @classmethod
    def from_parameters(
        cls, parameters: Mapping[str, Any], device: torch.device
    ) -> tuple["TrainingPlan", np.random.RandomState]:
        """Check the parameters of the estimator.

        Also returns the random state that draws the held-out subjects.
        """
        for name, rule in _RULES.items():
            if not rule.holds(parameters[name]):
                raise ConfigError(
                    f"{name}: expected {rule.expected}, got {parameters[name]!r}."
                )
        random = _random_state(parameters["random_state"])
        batch_size = parameters["batch_size"]
        if batch_size == "auto":
            batch_size = 1 if device.type == "cpu" else _ACCELERATOR_BATCH
        plan = cls(
            n_steps=int(parameters["n_steps"]),
            learning_rate=float(parameters["learning_rate"]),
            batch_size=int(batch_size),
            freeze_encoder=bool(parameters["freeze_encoder"]),
            seed=int(random.randint(2**31)),
        )
        return plan, random


class Split(NamedTuple):
    """Indices of subjects in the store."""

    train: NDArray[np.int64]
    held_out: NDArray[np.int64]  # whose Dice decides on early stopping


def split_subjects(
    has_class: NDArray[np.bool_],
    groups: NDArray[np.int64],
    fraction: float,
    random: np.random.RandomState,
) -> Split:
    """Hold out a fraction of the groups, so that every class can still be learnt.

    At most four subjects are validated. Groups without any foreground, whose Dice is
    undefined, are not held out. ``has_class`` is of shape
    (n_subjects, n_classes), ``groups`` of shape (n_subjects,).
    """
    names = np.unique(groups)
    n_remaining = int(fraction * len(names))
    held_out: list[int] = []
    for group in random.permutation(names):
        if n_remaining == 0 or len(held_out) >= _MAX_HELD_OUT:
            break
        members = np.flatnonzero(groups == group)
        rest = np.delete(has_class, [*held_out, *members], axis=0)
        keeps_classes = (rest.any(axis=0) == has_class.any(axis=0)).all()
        if keeps_classes and has_class[members, 1:].any():
            held_out.extend(members.tolist())
            n_remaining -= 1
    train_rows = np.setdiff1d(np.arange(len(has_class)), held_out)
    validated = [row for row in held_out if has_class[row, 1:].any()]
    return Split(train_rows, np.array(validated[:_MAX_HELD_OUT], dtype=np.int64))


def check_grid(grid: object, modalities: Sequence[str]) -> None:
    """Check that maps can lie on a grid."""
    if grid not in ("label", "first", *modalities):
        raise ConfigError(
            f"grid: expected 'label', 'first' or one of {tuple(modalities)}, got "
            f"{grid!r}."
        )


def _random_state(random_state: Any) -> np.random.RandomState:
    try:
        random: np.random.RandomState = check_random_state(random_state)
    except ValueError as error:
        raise ConfigError(
            "random_state: expected None, an integer or a RandomState, "
            f"got {random_state!r}."
        ) from error
    return random
