"""Maps on the grids of the inputs, interpolated on demand."""

__all__ = ["NativeMaps"]

from collections.abc import Sequence
from typing import Any, overload

import nibabel as nib

from brainfeat.embedding.tokens import SubjectTokens
from brainfeat.io.volumes import to_image
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.volume import Volume


class NativeMaps(Sequence[nib.Nifti1Image]):
    """A map a subject, on the grid of its first image; interpolated when indexed.

    A native map is as large as the scan: a cohort of them would need much memory.
    """

    def __init__(
        self,
        volumes: Sequence[Volume],
        subjects: Sequence[SubjectTokens],
        preprocessor: Preprocessor,
    ) -> None:
        self._values = [volume.data for volume in volumes]
        self._aligned = [
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
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        values, aligned = self._values[index], self._aligned[index]
        return to_image(self._preprocessor.invert(values, aligned, self._native[index]))
