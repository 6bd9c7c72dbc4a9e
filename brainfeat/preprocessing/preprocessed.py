"""A subject on the encoder's grid."""

__all__ = ["PreprocessedSubject"]

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brainfeat.volume import Geometry


@dataclass(frozen=True, eq=False)
class PreprocessedSubject:
    """All modalities of one subject on the encoder's grid.

    Parameters
    ----------
    data : ndarray of float32 of shape (n_modalities, size_i, size_j, size_k)
        Z-scores over the foreground, the lowest of them outside it; zero where a
        modality is missing.
    present : ndarray of bool of shape (n_modalities,)
        Modalities of the subject.
    foreground : ndarray of bool of shape (size_i, size_j, size_k)
        Voxels that count as brain.
    geometry : Geometry
        The grid, in millimetres of the template.
    grid_to_scanner : ndarray of shape (4, 4)
        Maps the grid's millimetres to the scanner's.
    similarity : float
        Correlation with the head model; NaN if the subject was only centred.
    """

    data: NDArray[np.float32]
    present: NDArray[np.bool_]
    foreground: NDArray[np.bool_]
    geometry: Geometry
    grid_to_scanner: NDArray[np.float64]
    similarity: float

    def on_grid(self, geometry: Geometry) -> "PreprocessedSubject":
        """Copy with another grid and no voxels.

        Parameters
        ----------
        geometry : Geometry
            The other grid, in millimetres of the template.

        Returns
        -------
        PreprocessedSubject
            For `Preprocessor.invert` and `apply_labels`; its data is empty.
        """
        no_voxels = np.empty((0, 0, 0, 0), np.float32)
        return dataclasses.replace(self, data=no_voxels, geometry=geometry)
