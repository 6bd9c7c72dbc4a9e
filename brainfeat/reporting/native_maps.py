"""Maps on the grids of the inputs, made when they are asked for."""

__all__ = ["NativeMaps"]

from collections.abc import Sequence
from typing import overload

import nibabel as nib

from brainfeat.embedding.tokens import SubjectTokens
from brainfeat.io.volumes import to_image
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.volume import Volume


class NativeMaps(Sequence[nib.Nifti1Image]):
    """A map a subject, on the grid of its first image.

    A map in native space is as large as the scan, and its values on the grid are few:
    maps are interpolated one by one, so that a cohort of them needs little memory.

    Parameters
    ----------
    volumes : sequence of Volume
        Maps on the grid.
    subjects : sequence of SubjectTokens
        Where each lies in scanner space.
    preprocessor : Preprocessor
        What took the subjects to the grid.
    """

    def __init__(
        self,
        volumes: Sequence[Volume],
        subjects: Sequence[SubjectTokens],
        preprocessor: Preprocessor,
    ) -> None:
        self._values = [volume.data for volume in volumes]
        self._placed = [
            subject.processed.on_grid(volume.geometry)
            for volume, subject in zip(volumes, subjects, strict=True)
        ]
        self._native = [subject.native for subject in subjects]
        self._preprocessor = preprocessor

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, index: int) -> nib.Nifti1Image: ...
    @overload
    def __getitem__(self, index: slice) -> list[nib.Nifti1Image]: ...
    def __getitem__(
        self, index: int | slice
    ) -> nib.Nifti1Image | list[nib.Nifti1Image]:
        """Interpolate one map, or some."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return to_image(
            self._preprocessor.invert(
                self._values[index], self._placed[index], self._native[index]
            )
        )
