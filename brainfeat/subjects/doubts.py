"""Subjects whose brain may not have been found: one warning, or failures."""

__all__ = ["Assessed", "Doubts", "report_doubts"]

import logging
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from brainfeat.exceptions import QualityError
from brainfeat.preprocessing.quality import Quality
from brainfeat.subjects.failures import one_line
from brainfeat.subjects.subject import Outcome, Subject

_LOGGER = logging.getLogger(__name__)
_N_LISTED = 3


class _HasQuality(Protocol):
    @property
    def quality(self) -> Quality | None: ...


Assessed = TypeVar("Assessed", bound=_HasQuality)


class Doubts:
    """Collects the doubts of a run, and reports them in one warning.

    If ``strict``, a doubt is an error of its subject instead.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._reasons: list[str] = []

    def note(self, subject: Subject, quality: Quality | None) -> QualityError | None:
        """Note a doubt; return it as an error if doubts are errors."""
        if quality is None or not quality.doubt:
            return None
        if self._strict:
            return QualityError(f"{subject.source_name}: in doubt: {quality.doubt}")
        self._reasons.append(one_line(f"{subject.source_name}: {quality.doubt}"))
        return None

    def report(self, advice: str = "") -> None:
        """Log a warning with their number, and the first of them."""
        if not self._reasons:
            return
        n_others = len(self._reasons) - _N_LISTED
        more = f"; and {n_others} more" if n_others > 0 else ""
        count = (
            "1 subject" if len(self._reasons) == 1 else f"{len(self._reasons)} subjects"
        )
        listed = "; ".join(self._reasons[:_N_LISTED])
        _LOGGER.warning("%s in doubt%s: %s%s", count, advice, listed, more)


def report_doubts(
    outcomes: Iterable[Outcome[Assessed]],
) -> Iterator[Outcome[Assessed]]:
    """Pass outcomes on, and log their doubts in one warning after the last."""
    doubts = Doubts()
    for outcome in outcomes:
        if outcome.result is not None:
            doubts.note(outcome.subject, outcome.result.quality)
        yield outcome
    doubts.report()
