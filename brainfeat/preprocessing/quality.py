"""Whether a subject's brain was found, and the reasons to doubt it."""

__all__ = ["Quality", "assess_quality", "measure_ml"]

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from brainfeat.preprocessing.alignment import DOUBTFUL_SIMILARITY, Alignment
from brainfeat.volume import Geometry


class Quality(NamedTuple):
    """How well the brain of a subject was found."""

    similarity: float  # correlation with the head model; NaN if only centred
    brain_ml: float  # volume of the found brain, in the subject's own space
    doubt: str  # reasons why it may be misplaced or not whole, joined by "; "


def assess_quality(alignment: Alignment, brain_ml: float) -> Quality:
    """Collect the reasons to doubt that the brain was found whole and alone."""
    doubts = [*_doubt_similarity(alignment.similarity)]
    return Quality(float(alignment.similarity), brain_ml, "; ".join(doubts))


def measure_ml(
    foreground: NDArray[np.bool_], grid: Geometry, grid_to_scanner: NDArray[np.float64]
) -> float:
    """Return the volume of a mask in the subject's own space, in millilitres.

    An affine alignment scales the grid: its voxels differ from the template's.
    """
    voxel = np.linalg.det((grid_to_scanner @ grid.affine)[:3, :3])
    return float(abs(voxel) * np.count_nonzero(foreground) / 1000.0)


def _doubt_similarity(similarity: float) -> list[str]:
    if math.isnan(similarity):
        return ["not aligned to the template, only centred"]
    if similarity < DOUBTFUL_SIMILARITY:
        return [
            "perhaps not well aligned to the template, expected a similarity of at "
            f"least {DOUBTFUL_SIMILARITY}, got {similarity:.2f}"
        ]
    return []
