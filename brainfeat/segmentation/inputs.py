"""A subject's images on the encoder's grid and a finer one, and maps back to native."""

__all__ = [
    "NativeGrid",
    "SegmentationInput",
    "SegmentationSpace",
    "acquired_modalities",
]

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.exceptions import ConfigError, VolumeError
from brainfeat.models.config import EncoderConfig
from brainfeat.models.volume_config import VolumeConfig
from brainfeat.preprocessing.intensities import clip_and_measure, repair
from brainfeat.preprocessing.interface import SubjectPreprocessing
from brainfeat.preprocessing.preprocessed import PreprocessedSubject
from brainfeat.preprocessing.resampling import reorient_to_ras, resample
from brainfeat.preprocessing.settings import preprocessing_from_dict
from brainfeat.segmentation.boxes import Box, crop_geometry
from brainfeat.slabs.grid import PLANE_AXES, Plane, SlabGrid
from brainfeat.subjects.failures import adding_context
from brainfeat.subjects.reading import read_and_preprocess
from brainfeat.subjects.subject import Subject
from brainfeat.subjects.table import SubjectTable, check_subject
from brainfeat.volume import Geometry, Volume

# Fat and vessels are far brighter than the brain.
_MAX_SCORE = 5.0
_PERCENTILES = (0.5, 99.5)  # of the brain, at which intensities are clipped
_FINE_SPACING = 1.0  # mm, at which label maps keep their borders

_IN_BRAIN = 0.5  # least fraction of brain of a voxel in it


class NativeGrid(NamedTuple):
    """The grid of one of a subject's images, on which label maps may lie."""

    modality: str
    geometry: Geometry  # in the scanner space of the image
    to_scanner: NDArray[np.float64]  # template mm to the scanner mm of the image


@dataclass(frozen=True, eq=False)
class SegmentationInput:
    """One subject on both grids."""

    coarse: PreprocessedSubject  # the encoder's input: brain only, all its modalities
    voxels: NDArray[np.float32]  # (M, I * u, J * u, K * u): z-scores, not masked
    fine: PreprocessedSubject  # as `coarse`, with the fine grid and without data
    grids: tuple[NativeGrid, ...]  # of the images that are used, in order
    present: NDArray[np.bool_]  # which modalities of `voxels` the subject has

    @property
    def native(self) -> Geometry:
        """Grid of the subject's first image, in scanner space."""
        return self.grids[0].geometry

    def grid_of(self, modality: str | None) -> NativeGrid:
        """Return the grid of a modality, or of the first if it was not acquired."""
        named = (grid for grid in self.grids if grid.modality == modality)
        return next(named, self.grids[0])

    def grid_like(self, geometry: Geometry) -> NativeGrid | None:
        """Return the first grid that equals one, as that of a label map."""
        return next((g for g in self.grids if g.geometry.is_close(geometry)), None)

    def near_brain(self) -> NDArray[np.bool_]:
        """Return the found brain and the voxels around it, on the encoder's grid."""
        around = np.ones((3, 3, 3), np.bool_)
        near: NDArray[np.bool_] = ndimage.binary_dilation(
            self.coarse.foreground, around
        )
        return near

    def stack_coarse(self) -> NDArray[np.float32]:
        """Stack the encoder's volumes and the foreground, (M + 1, I, J, K)."""
        return np.concatenate([self.coarse.data, self.coarse.foreground[None]])


@dataclass(frozen=True, kw_only=True)
class SegmentationSpace:
    """The encoder's grid, a finer one for borders, and transforms to both and back.

    Fine voxels are not masked: brain masks are off by a millimetre in places, and
    labels may lie outside the brain.
    """

    preprocessor: SubjectPreprocessing
    slab_grid: SlabGrid  # of the encoder; its patches, if it takes whole volumes
    encoder_modalities: tuple[str, ...]
    modalities: tuple[str, ...]  # that the decoder sees
    allow_missing: bool

    @classmethod
    def of_checkpoint(cls, config: CheckpointConfig, modalities: Sequence[str]) -> Self:
        """Take the encoder's grid from the configuration of its checkpoint."""
        preprocessor = preprocessing_from_dict(config.preprocessing)
        if preprocessor.grid_shape is None:
            raise ConfigError(
                "segmentation: expected a checkpoint whose input has one size, got one "
                "whose size depends on the scan."
            )
        return cls(
            preprocessor=preprocessor,
            slab_grid=_find_slabs(config),
            encoder_modalities=tuple(config.encoder.modalities),
            modalities=tuple(modalities),
            allow_missing=config.missing_modalities,
        )

    @property
    def upsampling(self) -> int:
        """Fine voxels along the edge of a voxel of the encoder's grid."""
        return max(1, min(2, round(self.preprocessor.voxel_mm / _FINE_SPACING)))

    @property
    def modality_indices(self) -> list[int]:
        """Index of each of the decoder's modalities among the encoder's."""
        return [self.encoder_modalities.index(name) for name in self.modalities]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of the encoder's grid."""
        shape = self.preprocessor.grid_shape
        if shape is None:  # refused by `of_checkpoint`
            raise ConfigError("segmentation: expected a grid of one size.")
        return shape

    @property
    def fine_shape(self) -> tuple[int, int, int]:
        """Voxels of the fine grid."""
        i, j, k = (size * self.upsampling for size in self.shape)
        return i, j, k

    def fine_geometry(self, coarse: Geometry) -> Geometry:
        """Return the fine grid, which divides each voxel of a subject's coarse one."""
        factor = self.upsampling
        affine = coarse.affine.copy()
        affine[:3, :3] /= factor
        affine[:3, 3] -= affine[:3, :3] @ np.full(3, (factor - 1) / 2)
        return Geometry(self.fine_shape, affine)

    def read(self, subject: Subject) -> SegmentationInput:
        """Read a subject and resample it to both grids; errors begin with its file."""
        with adding_context(subject):
            check_subject(
                subject,
                modalities=self.encoder_modalities,
                allow_missing=self.allow_missing,
            )
            volumes, coarse = read_and_preprocess(
                subject, self.preprocessor, self.encoder_modalities
            )
            used = {n: volumes[n] for n in self.modalities if n in volumes}
            fine = coarse.on_grid(self.fine_geometry(coarse.geometry))
            grids = tuple(
                NativeGrid(name, volume.geometry, coarse.modality_to_scanner(name))
                for name, volume in used.items()
            )
            voxels = np.zeros((len(self.modalities), *fine.geometry.shape), np.float32)
            for (name, volume), grid in zip(used.items(), grids, strict=True):
                with adding_context(Subject(str(volume.path or name), {})):
                    scores = self._standardise(volume, fine, grid.to_scanner)
                voxels[self.modalities.index(name)] = scores
        present = coarse.present[self.modality_indices]
        return SegmentationInput(coarse, voxels, fine, grids, present)

    def to_grid(
        self, label_map: Volume, subject: SegmentationInput
    ) -> NDArray[np.int32]:
        """Resample labels in scanner space to the fine grid, by nearest neighbour.

        In the space of the image on whose grid they were drawn, else of the first.
        """
        grid = subject.grid_like(label_map.geometry) or subject.grids[0]
        placed = replace(subject.fine, grid_to_scanner=grid.to_scanner)
        return self.preprocessor.apply_labels(label_map, placed)

    def to_native(
        self,
        values: NDArray[Any],
        subject: SegmentationInput,
        grid: NativeGrid | None = None,
        box: Box | None = None,
    ) -> NDArray[np.float32]:
        """Interpolate fine voxels on a native grid, by default the first; 0 outside.

        ``values`` are those of a box of the fine grid, if there is one.
        """
        grid = grid or subject.grids[0]
        on = crop_geometry(subject.fine.geometry, box) if box else subject.fine.geometry
        placed = replace(subject.fine, geometry=on, grid_to_scanner=grid.to_scanner)
        values = np.asarray(values, dtype=np.float32)
        return self.preprocessor.invert(values, placed, grid.geometry).data

    def brain_on(
        self, subject: SegmentationInput, grid: NativeGrid
    ) -> NDArray[np.bool_]:
        """Return which voxels of a native grid lie in the found brain."""
        placed = replace(subject.coarse, grid_to_scanner=grid.to_scanner)
        fraction = subject.coarse.foreground.astype(np.float32)
        brain = self.preprocessor.invert(fraction, placed, grid.geometry).data
        return np.asarray(brain >= _IN_BRAIN)

    def _standardise(
        self, volume: Volume, fine: PreprocessedSubject, to_scanner: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Resample to the fine grid, and z-score by the voxels of the brain."""
        sampled = resample(
            repair(reorient_to_ras(volume)),
            fine.geometry,
            to_scanner,
            outside=np.nan,
        )
        is_inside = np.isfinite(sampled)
        foreground = fine.foreground
        for axis in range(3):
            foreground = foreground.repeat(self.upsampling, axis)
        brain = sampled[foreground & is_inside]
        if not brain.size:
            raise VolumeError("the volume does not overlap the brain.")
        _, mean, spread = clip_and_measure(brain, _PERCENTILES)
        scores = (sampled - np.float32(mean)) / np.float32(spread)
        scores[~is_inside] = scores[is_inside].min()
        clipped: NDArray[np.float32] = scores.clip(-_MAX_SCORE, _MAX_SCORE)
        return clipped


def _find_slabs(config: CheckpointConfig) -> SlabGrid:
    """Return slabs one patch thick, in a plane in which patches are square."""
    encoder = config.encoder
    if isinstance(encoder, EncoderConfig):
        return SlabGrid(thickness=encoder.thickness, plane=config.plane)
    if isinstance(encoder, VolumeConfig):
        patch = encoder.patch_size
        planes: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
        for plane in planes:
            along, height, width = PLANE_AXES[plane]
            if patch[height] == patch[width]:
                return SlabGrid(thickness=patch[along], plane=plane)
    raise ConfigError(
        "segmentation: expected a transformer with square patches, got an encoder of "
        f"kind {encoder.kind!r}."
    )


def acquired_modalities(table: SubjectTable) -> tuple[str, ...]:
    """List the modalities that at least one subject has."""
    images = [item for subject in table.rows for item in subject.images.items()]
    acquired = {name for name, image in images if image is not None}
    return tuple(name for name in table.modalities if name in acquired)
