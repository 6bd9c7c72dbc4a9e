"""Resample volumes from scanner space to the encoder's grid, and back."""

__all__ = ["AlignmentMode", "Preprocessor"]

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from brainfeat.configs import PositiveInt, Relation, Rule, check_fields
from brainfeat.exceptions import VolumeError
from brainfeat.preprocessing import brain_mask as masks
from brainfeat.preprocessing.alignment import Alignment, align_to_template
from brainfeat.preprocessing.intensities import correct_bias, repair, standardise
from brainfeat.preprocessing.interface import (
    AlignmentMode,
    SubjectPreprocessing,
    adding_source,
    given_volumes,
)
from brainfeat.preprocessing.overlay import lay_over
from brainfeat.preprocessing.preprocessed import PreprocessedSubject
from brainfeat.preprocessing.quality import assess_quality, measure_ml
from brainfeat.preprocessing.resampling import reorient_to_ras, resample
from brainfeat.preprocessing.template import BRAIN_CENTER
from brainfeat.volume import Geometry, Volume

_Length = Annotated[float, Rule("> 0 and finite", lambda mm: 0 < mm < math.inf)]
Affine = NDArray[np.float64]

# Part of the fingerprint; incremented when the same settings give other voxels.
_REVISION = 13


@dataclass(frozen=True, kw_only=True)
class Preprocessor(SubjectPreprocessing):
    """Resample a subject to the encoder's grid and normalise its intensities.

    The brain is located by registration to MNI152; `alignment` chooses how much of the
    transform is applied. All modalities share it, so they must be aligned in scanner
    space, as those of one session mostly are: those that are not are in doubt, unless
    `coregister` aligns them.

    Parameters
    ----------
    shape : tuple of int (size_i, size_j, size_k)
        Voxels of the grid: left to right, posterior to anterior, inferior to
        superior.
    spacing : float
        Edge of a voxel in millimetres.
    alignment : {"none", "rigid", "affine"}
        ``"none"`` only centres the grid on the brain, ``"rigid"`` also rotates it,
        ``"affine"`` also scales and shears it.
    bias_correction : bool
        Whether to correct the bias field by N4 [1]_.
    brain_mask : str or callable, optional
        Skull strip: the path of a mask, in which ``{stem}`` and ``{folder}`` stand
        for the image's; ``"deepbet"``; ``"module:function"`` or a function that
        takes a `Volume` and returns an array of its shape. By default, the brain is
        found from the registration.
    percentiles : tuple of float (lower, upper)
        Percentiles of the foreground at which intensities are clipped.
    coregister : bool
        Whether to register further modalities of a subject to the first, rigidly, by
        mutual information; where that fails, the subject is in doubt.

    Raises
    ------
    ConfigError
        If a value is of the wrong type or invalid.

    References
    ----------
    .. [1] Tustison et al., N4ITK: improved N3 bias correction. IEEE Transactions on
       Medical Imaging 29, 2010. doi:10.1109/TMI.2010.2046908

    Examples
    --------
    >>> Preprocessor(alignment="affine").to_dict()["spacing"]
    2.0
    """

    shape: tuple[PositiveInt, PositiveInt, PositiveInt] = (80, 104, 80)
    spacing: _Length = 2.0
    alignment: AlignmentMode = "rigid"
    bias_correction: bool = False
    brain_mask: masks.BrainMask | None = None
    percentiles: tuple[float, float] = (0.5, 99.5)
    coregister: bool = False

    def __post_init__(self) -> None:
        check_fields(self, _relations)

    @property
    def geometry(self) -> Geometry:
        """The encoder's grid, centred on the template brain, in template mm."""
        affine = np.diag([self.spacing, self.spacing, self.spacing, 1.0])
        half = (np.array(self.shape) - 1) / 2.0
        affine[:3, 3] = np.array(BRAIN_CENTER) - self.spacing * half
        return Geometry(self.shape, affine)

    @property
    def grid_shape(self) -> tuple[int, int, int]:
        """Voxels of the grid, the same for all subjects."""
        return self.shape

    @property
    def voxel_mm(self) -> float:
        """Edge of a voxel in mm."""
        return self.spacing

    @property
    def aligned(self) -> AlignmentMode:
        """How much of the transform to the template is applied."""
        return self.alignment

    @property
    def knows_template(self) -> bool:
        """Whether the grid is in template millimetres, not only centred."""
        return self.alignment != "none"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the settings and of the revision of the algorithm."""
        settings = {"revision": _REVISION, **self.to_dict()}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def apply(
        self, volumes: Mapping[str, Volume | None], modalities: Sequence[str]
    ) -> PreprocessedSubject:
        """Resample and normalise the volumes of a subject.

        Parameters
        ----------
        volumes : mapping of str to Volume or None
            Volume of each modality; missing ones are None or absent.
        modalities : sequence of str
            Modalities in the order of the result.

        Returns
        -------
        PreprocessedSubject
            The subject on the grid.

        Raises
        ------
        ModalityError
            If there is no volume, or one of an unexpected modality.
        VolumeError
            If a volume has no contrast, or is mostly NaN.
        """
        clean, given = {}, given_volumes(volumes, modalities)
        for name, volume in given.items():
            with adding_source(volume, name):
                clean[name] = repair(reorient_to_ras(volume))
        first = next(iter(clean))
        header = given[first].geometry.orientation
        alignment = align_to_template(clean[first])
        placement = masks.Placement(self.geometry, self._grid_to_scanner(alignment))
        sampled = {first: resample(clean[first], *placement, outside=np.nan)}
        reference = clean[first], sampled[first]
        with adding_source(clean[first], first):
            foreground = self._find_foreground(*reference, alignment, placement)
        overlaid = lay_over(
            clean, sampled[first], foreground, placement, coregister=self.coregister
        )
        sampled |= overlaid.sampled
        # Stored in the memory order of the samples and of the slabs.
        stored = np.zeros((len(modalities), *self.shape[::-1]), dtype=np.float32)
        data = stored.transpose(0, 3, 2, 1)
        for name, volume in clean.items():
            with adding_source(volume, name):
                index = modalities.index(name)
                data[index] = self._normalise(sampled[name], foreground)
        present = np.array([name in clean for name in modalities])
        quality = assess_quality(
            alignment,
            measure_ml(foreground, *placement),
            volume=clean[first],
            modality=first,
            header=header,
            is_placed=self.alignment != "none",
        )
        quality = quality.with_doubts(overlaid.misfits)
        return PreprocessedSubject(
            data, present, foreground, *placement, quality, overlaid.moves
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON values.

        Returns
        -------
        dict
            Values for `from_dict`.

        Raises
        ------
        ConfigError
            If `brain_mask` is a function that cannot be imported elsewhere.
        """
        return {
            "shape": [int(size) for size in self.shape],
            "spacing": float(self.spacing),
            "alignment": self.alignment,
            "bias_correction": self.bias_correction,
            "brain_mask": masks.mask_reference(self.brain_mask),
            "percentiles": [float(value) for value in self.percentiles],
            # Only where it is used, so that other fingerprints stay.
            **({"coregister": True} if self.coregister else {}),
        }

    def _grid_to_scanner(self, alignment: Alignment) -> Affine:
        center = np.array(BRAIN_CENTER)
        target = alignment.affine[:3, :3] @ center + alignment.affine[:3, 3]
        if not alignment.is_registered:
            # Put a voxel, not the middle of two, on the centre: there may be one slice.
            grid = self.geometry
            center = grid.affine[:3, :3] @ (np.array(grid.shape) // 2)
            center = center + grid.affine[:3, 3]
        elif self.alignment == "affine":
            return alignment.affine
        elif self.alignment == "rigid":
            return alignment.rigid
        shift = np.eye(4)
        shift[:3, 3] = target - center
        return shift

    def _find_foreground(
        self,
        volume: Volume,
        sampled: NDArray[np.float32],
        alignment: Alignment,
        placement: masks.Placement,
    ) -> NDArray[np.bool_]:
        if self.brain_mask is None:
            foreground = masks.find_foreground(volume, sampled, alignment, placement)
        else:
            mask = reorient_to_ras(masks.compute_mask(volume, self.brain_mask))
            fraction = Volume(mask.data.astype(np.float32), mask.geometry)
            foreground = np.asarray(resample(fraction, *placement) >= 0.5)
        if not foreground.any():
            raise VolumeError("expected a brain mask that overlaps the brain.")
        return foreground

    def _normalise(
        self, sampled: NDArray[np.float32], foreground: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        in_view = np.isfinite(sampled)
        brain = foreground & in_view
        if not brain.any():
            raise VolumeError("expected a volume that overlaps the brain.")
        if self.bias_correction:
            filled = np.where(in_view, sampled, sampled[in_view].min())
            sampled = correct_bias(filled, brain, self.geometry)
        return standardise(sampled, brain, self.percentiles)


def _relations(config: Preprocessor) -> Iterator[Relation]:
    lower, upper = config.percentiles
    yield config.brain_mask != "", "brain_mask", "a path, a name or a function"
    yield 0 <= lower < upper <= 100, "percentiles", "lower < upper in [0, 100]"
