"""What every preprocessing of a subject offers, and maps between its spaces."""

__all__ = [
    "AlignmentMode",
    "SubjectPreprocessing",
    "adding_source",
    "given_volumes",
    "known_fingerprint",
]

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from brainfeat.configs import JsonConfig
from brainfeat.exceptions import ConfigError, ModalityError, VolumeError
from brainfeat.preprocessing import brain_mask as masks
from brainfeat.preprocessing.preprocessed import PreprocessedSubject
from brainfeat.preprocessing.resampling import (
    reorient_to_ras,
    resample,
    resample_native,
)
from brainfeat.volume import Geometry, Volume

AlignmentMode = Literal["none", "rigid", "affine"]


class SubjectPreprocessing(JsonConfig, ABC):
    """From the volumes of a subject to an encoder's grid, and back."""

    brain_mask: masks.BrainMask | None

    @property
    @abstractmethod
    def grid_shape(self) -> tuple[int, int, int] | None:
        """Voxels of the grid; None if they depend on the subject."""

    @property
    @abstractmethod
    def voxel_mm(self) -> float:
        """Edge of a voxel of the grid in mm; that of an adult if it depends on one."""

    @property
    @abstractmethod
    def geometry(self) -> Geometry | None:
        """The grid in template mm; None if it depends on the subject."""

    @property
    @abstractmethod
    def aligned(self) -> AlignmentMode:
        """How much of the transform to the template is applied to the voxels."""

    @property
    @abstractmethod
    def knows_template(self) -> bool:
        """Whether the grid of a subject is known in template millimetres."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of the settings and of the revision of the algorithm."""

    @abstractmethod
    def apply(
        self, volumes: Mapping[str, Volume | None], modalities: Sequence[str]
    ) -> PreprocessedSubject:
        """Take the volumes of a subject to the grid."""

    def apply_labels(
        self, label_map: Volume, subject: PreprocessedSubject
    ) -> NDArray[Any]:
        """Resample a label map of a subject to the grid, by nearest neighbour.

        Parameters
        ----------
        label_map : Volume
            Labels on any grid in the subject's scanner space.
        subject : PreprocessedSubject
            The subject on the grid.

        Returns
        -------
        ndarray of shape (size_i, size_j, size_k)
            Labels on the grid; 0 outside the label map.
        """
        labels, placement = reorient_to_ras(label_map), subject.grid_to_scanner
        return resample(labels, subject.geometry, placement, interpolation="nearest")

    def invert(
        self, data: NDArray[Any], subject: PreprocessedSubject, native: Geometry
    ) -> Volume:
        """Resample a map on the grid to a subject's own space.

        Parameters
        ----------
        data : ndarray of shape (size_i, size_j, size_k)
            Labels (integers or booleans), by nearest neighbour, or scores (floats),
            interpolated linearly.
        subject : PreprocessedSubject
            The subject on the grid.
        native : Geometry
            Target grid, in scanner space.

        Returns
        -------
        Volume
            The map on ``native``; 0 outside the encoder's grid.
        """
        is_score = data.dtype.kind == "f"
        values = data.astype(np.float32) if is_score else data
        to_grid = np.linalg.inv(subject.grid_to_scanner).astype(np.float64)
        kind: Literal["linear", "nearest"] = "linear" if is_score else "nearest"
        on_grid = Volume(values, subject.geometry)
        samples = resample_native(on_grid, native, to_grid, interpolation=kind)
        return Volume(samples, native)

    def mask_path(self, path: str | os.PathLike[str] | None) -> Path | None:
        """Return the mask file that belongs to an image.

        Parameters
        ----------
        path : path-like or None
            Image of a subject's first modality; None if it is in memory.

        Returns
        -------
        Path or None
            None if the mask is computed.
        """
        return masks.mask_path(self.brain_mask, path)

    def input_files(
        self, images: Mapping[str, str], modalities: Sequence[str]
    ) -> dict[str, str]:
        """Return the files that a subject is read from.

        Parameters
        ----------
        images : mapping of str to str
            Path of the image of each modality.
        modalities : sequence of str
            Modalities in order; the first one present is masked.

        Returns
        -------
        dict of str to str
            The images, and the brain mask if it is a file.
        """
        first = next((images[name] for name in modalities if name in images), None)
        mask = self.mask_path(first)
        return {**images, **({} if mask is None else {"brain_mask": str(mask)})}


def given_volumes(
    volumes: Mapping[str, Volume | None], modalities: Sequence[str]
) -> dict[str, Volume]:
    """Return the volumes of a subject, in the order of `modalities`.

    Raises a ModalityError if there is none, or one of an unexpected modality.
    """
    unknown = sorted(set(volumes) - set(modalities))
    if unknown:
        raise ModalityError(f"expected some of {tuple(modalities)}, got {unknown}.")
    given = {n: v for n in modalities if (v := volumes.get(n)) is not None}
    if not given:
        raise ModalityError(f"expected one of {tuple(modalities)}, got no volume.")
    return given


@contextmanager
def adding_source(volume: Volume, modality: str) -> Iterator[None]:
    """Add the file, or else the modality, to the message of a VolumeError."""
    try:
        yield
    except VolumeError as error:
        raise type(error)(f"{volume.path or modality}: {error}") from error


def known_fingerprint(preprocessor: SubjectPreprocessing) -> str | None:
    """Return the fingerprint; None if a brain mask is a function without a name."""
    try:
        return preprocessor.fingerprint
    except ConfigError:
        return None
