"""Which modalities a model was trained with, and subjects that have fewer."""

__all__ = ["FewerModalities", "trained_choices"]

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from brainfeat.exceptions import ModalityError
from brainfeat.subjects.subject import Subject, join_modalities

_LOGGER = logging.getLogger(__name__)


def trained_choices(
    present: NDArray[np.bool_], *, may_hide: bool
) -> list[tuple[bool, ...]]:
    """List the choices of modalities that a training sees, all of them first.

    ``present`` (n_subjects, M) are those of each subject, of which one at a time is
    hidden if ``may_hide``.
    """
    choices = {tuple(map(bool, row)) for row in present}
    if may_hide:
        for row in list(choices):
            shown = [index for index, is_present in enumerate(row) if is_present]
            for hidden in shown if len(shown) > 1 else ():
                choices.add(tuple(v and i != hidden for i, v in enumerate(row)))
    return sorted(choices, key=lambda row: (-sum(row), [not v for v in row]))


class FewerModalities:
    """Collects subjects that lack modalities of the training; one warning at the end.

    ``scores`` are Dice coefficients by choice of modalities, as in ``T1w+FLAIR``.
    """

    def __init__(self, scores: Mapping[str, float], modalities: Sequence[str]) -> None:
        self._scores, self._modalities = scores, modalities
        self._counts: Counter[str] = Counter()

    def note(self, subject: Subject) -> None:
        """Count a subject; refuse a choice that the training never had."""
        if not self._scores:
            return
        given = {k: v is not None for k, v in subject.images.items()}
        choice = join_modalities(given, self._modalities)
        if choice and choice not in self._scores:
            raise ModalityError(
                f"{subject.source_name}: expected {' or '.join(self._scores)}, as in "
                f"the training, got {choice}; add the missing images, or train with "
                "subjects that lack them."
            )
        if choice.count("+") + 1 < len(self._modalities):
            self._counts[choice] += 1

    def report(self) -> None:
        """Log a warning with the number of subjects, and the Dice of each choice."""
        if not self._counts:
            return
        whole = "+".join(self._modalities)
        parts = [
            f"{n} with {choice} only ({_describe(self._scores[choice])})"
            for choice, n in self._counts.most_common()
        ]
        _LOGGER.warning(
            "%d subjects have fewer modalities than the training: %s; with %s it was "
            "%s of held-out subjects.",
            *(sum(self._counts.values()), "; ".join(parts), whole),
            _describe(self._scores.get(whole, math.nan)),
        )


def _describe(score: float) -> str:
    return "Dice unknown" if math.isnan(score) else f"Dice {score:.2f}"
