"""A subject on the encoder's grid."""

__all__ = ["PreprocessedSubject"]

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from brainfeat.preprocessing.quality import Quality
from brainfeat.volume import Geometry


@dataclass(frozen=True, eq=False)
class PreprocessedSubject:
    """All modalities of one subject on the encoder's grid."""

    # (M, I, J, K), z-scores over the foreground, the lowest of them outside it; zero
    # where a modality is missing.
    data: NDArray[np.float32]
    present: NDArray[np.bool_]  # (M,), modalities of the subject
    foreground: NDArray[np.bool_]  # (I, J, K), voxels that count as brain
    geometry: Geometry  # the grid, in template mm
    grid_to_scanner: NDArray[np.float64]  # template mm to scanner mm
    quality: Quality  # whether the brain was found
    # From the scanner mm of the first modality to those of another; only of those that
    # were registered to it.
    moves: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def modality_to_scanner(self, modality: str) -> NDArray[np.float64]:
        """Map template mm to the scanner mm of one of the modalities."""
        return np.asarray(self.moves.get(modality, np.eye(4)) @ self.grid_to_scanner)

    def on_grid(self, geometry: Geometry) -> "PreprocessedSubject":
        """Copy with another grid and no voxels, for `Preprocessor.invert`."""
        no_voxels = np.empty((0, 0, 0, 0), np.float32)
        return replace(self, data=no_voxels, geometry=geometry)
