"""Whether a subject's brain was found, and the reasons to doubt it."""

__all__ = ["Quality", "assess_quality", "measure_ml"]

import json
import math
from collections.abc import Iterable
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from brainfeat.preprocessing.alignment import Alignment
from brainfeat.preprocessing.brain_checks import find_doubts
from brainfeat.volume import Geometry, Volume


class Quality(NamedTuple):
    """How well the brain of a subject was found."""

    similarity: float  # correlation with the head model; NaN if only centred
    brain_ml: float  # volume of the found brain, in the subject's own space
    doubt: str  # reasons why it may be misplaced or not whole, joined by "; "

    def with_doubts(self, reasons: Iterable[str]) -> Self:
        """Add reasons of doubt."""
        doubts = filter(None, [self.doubt, *reasons])
        return self._replace(doubt="; ".join(doubts))

    def to_text(self) -> str:
        """Write as one line, for notes beside a vector."""
        known = None if math.isnan(self.similarity) else self.similarity
        return json.dumps([known, self.brain_ml, self.doubt])

    @classmethod
    def from_text(cls, text: str) -> Self | None:
        """Read what `to_text` wrote; None of an empty text."""
        if not text:
            return None
        similarity, brain_ml, doubt = json.loads(text)
        return cls(math.nan if similarity is None else similarity, brain_ml, doubt)


def assess_quality(
    alignment: Alignment,
    brain_ml: float,
    *,
    volume: Volume | None = None,
    modality: str | None = None,
    header: str = "RAS",
    is_placed: bool = True,
) -> Quality:
    """Collect the reasons to doubt that the brain was found whole and alone.

    ``volume`` is that of the alignment, in closest-RAS order, if it is to be checked,
    and ``header`` the orientation of its file.
    ``is_placed`` tells whether the encoder's grid follows the registration, or is only
    centred on the brain.
    """
    doubts: list[str] = []
    if is_placed and not alignment.is_registered and volume is None:
        doubts = ["not aligned to the template, only centred"]
    elif is_placed and volume is not None and _is_checkable(alignment):
        doubts = find_doubts(volume, alignment, modality, header)
    return Quality(float(alignment.similarity), brain_ml, "; ".join(doubts))


def measure_ml(
    foreground: NDArray[np.bool_], grid: Geometry, grid_to_scanner: NDArray[np.float64]
) -> float:
    """Return the volume of a mask in the subject's own space, in millilitres.

    An affine alignment scales the grid: its voxels differ from the template's.
    """
    voxel = np.linalg.det((grid_to_scanner @ grid.affine)[:3, :3])
    return float(abs(voxel) * np.count_nonzero(foreground) / 1000.0)


def _is_checkable(alignment: Alignment) -> bool:
    return alignment.brain is not None or not alignment.is_registered
