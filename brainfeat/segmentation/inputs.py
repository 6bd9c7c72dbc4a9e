"""From a subject's images to what encoder and decoder see of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from brainfeat.checkpoint.checkpoint import CheckpointConfig
from brainfeat.exceptions import VolumeError
from brainfeat.preprocessing.intensities import repair
from brainfeat.preprocessing.preprocessor import PreprocessedSubject, Preprocessor
from brainfeat.preprocessing.resampling import to_closest_ras, to_resampled
from brainfeat.subjects.failures import adding_context
from brainfeat.subjects.reading import read_and_preprocess
from brainfeat.subjects.subject import Subject
from brainfeat.volume import Geometry, Volume

__all__ = ["SegmentationInput", "SegmentationSpace"]

# Where the skull's fat, or a vessel, is far brighter than all of the brain.
_LARGEST_SCORE = 5.0
# Labels on voxels of about this edge, in mm, keep their borders.
_FINE_SPACING = 1.0


@dataclass(frozen=True, eq=False)
class SegmentationInput:
    """One subject on both grids.

    Parameters
    ----------
    coarse : PreprocessedSubject
        What the encoder sees: all of its modalities on its grid, brain only.
    voxels : ndarray of float32 of shape (n_modalities, size_i, size_j, size_k)
        Standard scores of the estimator's modalities on the fine grid, with all that
        lies around the brain.
    fine : PreprocessedSubject
        The same place as ``coarse``, with the geometry of the fine grid; without data.
    native : Geometry
        Grid of the subject's first image, in scanner space.
    """

    coarse: PreprocessedSubject
    voxels: NDArray[np.float32]
    fine: PreprocessedSubject
    native: Geometry


@dataclass(frozen=True)
class SegmentationSpace:
    """The encoder's grid and a finer one for borders, and the ways there and back.

    A mask of the brain is a millimetre wrong here and there, so the fine voxels are
    not masked: labels may lie outside of it.

    Parameters
    ----------
    preprocessor : Preprocessor
        Of the checkpoint.
    encoder_modalities : tuple of str
        Modalities that the checkpoint knows.
    modalities : tuple of str
        Modalities that the estimator was fitted on.
    """

    preprocessor: Preprocessor
    encoder_modalities: tuple[str, ...]
    modalities: tuple[str, ...]

    @classmethod
    def of_checkpoint(cls, config: CheckpointConfig, modalities: Sequence[str]) -> Self:
        """Take the encoder's grid from its checkpoint.

        Parameters
        ----------
        config : CheckpointConfig
            Of the encoder.
        modalities : sequence of str
            Modalities that the estimator is fitted on.

        Returns
        -------
        SegmentationSpace
            The grids.
        """
        preprocessor = Preprocessor.from_dict(config.preprocessing)
        return cls(preprocessor, tuple(config.encoder.modalities), tuple(modalities))

    @property
    def upsampling(self) -> int:
        """Fine voxels along an edge of a voxel of the encoder's grid."""
        return max(1, min(2, round(self.preprocessor.spacing / _FINE_SPACING)))

    @property
    def fine_geometry(self) -> Geometry:
        """The fine grid, in template mm: each coarse voxel is a block of its voxels."""
        coarse, factor = self.preprocessor.geometry, self.upsampling
        affine = coarse.affine.copy()
        affine[:3, :3] /= factor
        affine[:3, 3] -= affine[:3, :3] @ np.full(3, (factor - 1) / 2)
        i, j, k = (size * factor for size in coarse.shape)
        return Geometry((i, j, k), affine)

    def read(self, subject: Subject) -> SegmentationInput:
        """Read a subject and take it to both grids.

        Parameters
        ----------
        subject : Subject
            Images by modality.

        Returns
        -------
        SegmentationInput
            The subject on both grids.

        Raises
        ------
        VolumeError
            If an image cannot be used.
        """
        with adding_context(subject):
            return self._read(subject)

    def present(self, subject: SegmentationInput) -> NDArray[np.bool_]:
        """Tell which of the estimator's modalities a subject has.

        Parameters
        ----------
        subject : SegmentationInput
            From `read`.

        Returns
        -------
        ndarray of bool of shape (n_modalities,)
            In the order of ``modalities``.
        """
        places = [self.encoder_modalities.index(name) for name in self.modalities]
        present: NDArray[np.bool_] = subject.coarse.present[places]
        return present

    def to_grid(
        self, label_map: Volume, subject: SegmentationInput
    ) -> NDArray[np.int32]:
        """Take a label map to the fine grid, by nearest neighbour.

        Parameters
        ----------
        label_map : Volume
            On any grid that lies with the subject in scanner space.
        subject : SegmentationInput
            From `read`.

        Returns
        -------
        ndarray of int32 of shape (size_i, size_j, size_k)
            Labels; 0 outside the label map.
        """
        return self.preprocessor.apply_labels(label_map, subject.fine)

    def to_native(
        self, score: NDArray[Any], subject: SegmentationInput
    ) -> NDArray[np.float32]:
        """Interpolate a score on the fine grid in a subject's own voxels.

        Parameters
        ----------
        score : ndarray of shape (size_i, size_j, size_k)
            Such as the probability of a class.
        subject : SegmentationInput
            From `read`.

        Returns
        -------
        ndarray of float32 of the native shape
            The score; 0 where the grid does not reach.
        """
        values = np.asarray(score, dtype=np.float32)
        return self.preprocessor.invert(values, subject.fine, subject.native).data

    def _read(self, subject: Subject) -> SegmentationInput:
        volumes, coarse = read_and_preprocess(
            subject, self.preprocessor, self.encoder_modalities
        )
        fine = coarse.on_grid(self.fine_geometry)
        present = [v for n in self.modalities if (v := volumes.get(n)) is not None]
        voxels = np.zeros(
            (len(self.modalities), *self.fine_geometry.shape), dtype=np.float32
        )
        for index, name in enumerate(self.modalities):
            volume = volumes.get(name)
            if volume is not None:
                try:
                    voxels[index] = self._score(volume, fine)
                except VolumeError as error:
                    raise VolumeError(f"{volume.path or name}: {error}") from error
        return SegmentationInput(coarse, voxels, fine, present[0].geometry)

    def _score(self, volume: Volume, fine: PreprocessedSubject) -> NDArray[np.float32]:
        sampled = to_resampled(
            repair(to_closest_ras(volume)),
            fine.geometry,
            fine.grid_to_scanner,
            outside=np.nan,
        )
        reached = np.isfinite(sampled)
        foreground = fine.foreground
        for axis in range(3):
            foreground = foreground.repeat(self.upsampling, axis)
        known = sampled[foreground & reached]
        if not known.size:
            raise VolumeError("the volume does not overlap the brain.")
        low, high = np.percentile(known, self.preprocessor.percentiles)
        known = np.clip(known, low, high)
        spread = float(known.std())
        if not spread > 0:
            raise VolumeError("expected contrast within the brain, got one value.")
        scores = (sampled - known.mean()) / spread
        scores[~reached] = scores[reached].min()
        clipped: NDArray[np.float32] = scores.clip(-_LARGEST_SCORE, _LARGEST_SCORE)
        return clipped
