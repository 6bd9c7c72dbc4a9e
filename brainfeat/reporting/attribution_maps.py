"""What an attribution found: effects of regions, and maps of contributions."""

__all__ = ["Attribution", "NativeMaps"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from brainfeat.display.planes import planes_html
from brainfeat.display.summarised import Summarised, format_facts
from brainfeat.embedding.tokens import SubjectTokens
from brainfeat.io.volumes import to_image
from brainfeat.preprocessing.interface import SubjectPreprocessing
from brainfeat.volume import Volume

_N_SHOWN = 6  # regions in a summary


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Attribution(Summarised):
    """Contributions of regions and of positions to the decisions of a classifier.

    Parameters
    ----------
    effects : DataFrame of shape (n_subjects, n_regions)
        Drop of each decision when the tokens of a region are replaced by those of the
        average subject, in the units of the decision function.
    importance : DataFrame
        A row a region, most important first: ``share``, its fraction of the brain;
        ``effect``, the mean over the second class less that over the first, or the
        mean absolute effect without labels; ``importance``, effect over share.
    maps : sequence of Nifti1Image
        Contributions to each decision: of patch tokens, or of the voxels of the
        encoder's grid. Each is interpolated on the grid of the subject's first image
        when it is indexed.
    template_maps : tuple of Nifti1Image
        The same without interpolation, in MNI152 space and on one grid: for
        `SecondLevelModel`. For a linear head, those of a subject add up to the
        difference of its decision from the average subject's; after occlusion,
        approximately.
    group_img : Nifti1Image
        Mean map of the second class less that of the first, or mean absolute map
        without labels, in MNI152 space: for `plot_stat_map` and `plot_glass_brain`.
    """

    effects: pd.DataFrame
    importance: pd.DataFrame
    maps: Sequence[nib.Nifti1Image]
    template_maps: tuple[nib.Nifti1Image, ...]
    group_img: nib.Nifti1Image

    def summary(self) -> str:
        """Summarise the most important regions.

        Returns
        -------
        str
            Lines for a terminal.
        """
        top = self.importance.head(_N_SHOWN)
        facts = [
            ("subjects", str(len(self.effects))),
            ("maps", f"one a subject, and a group map of {self.group_img.shape}"),
            *((name, _describe(row)) for name, row in top.iterrows()),
        ]
        return format_facts((str(name), value) for name, value in facts)

    def _headline(self) -> str:
        first = ", ".join(map(str, self.importance.index[:3]))
        return f"{len(self.effects)} subjects; most important are {first}"

    def _details_html(self) -> str:
        image = nib.as_closest_canonical(self.group_img)
        spacing = [float(mm) for mm in image.header.get_zooms()[:3]]
        return planes_html(np.asanyarray(image.dataobj), spacing, is_signed=True)


def _describe(row: "pd.Series[Any]") -> str:
    return (
        f"importance {row['importance']:+.2f}: effect {row['effect']:+.3f} of "
        f"{row['share']:.1%} of the brain"
    )


class NativeMaps(Sequence[nib.Nifti1Image]):
    """A map a subject, on the grid of its first image; interpolated when indexed."""

    # A native map is as large as the scan: a cohort of them would need much memory.
    def __init__(
        self,
        volumes: Sequence[Volume],
        subjects: Sequence[SubjectTokens],
        preprocessor: SubjectPreprocessing,
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

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        values, aligned = self._values[index], self._aligned[index]
        return to_image(self._preprocessor.invert(values, aligned, self._native[index]))
