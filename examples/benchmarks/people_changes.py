"""One head as another protocol would have scanned it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from head_scans import close_gaps, read_mask, reference_mask
from people_scans import Person

from brainfeat import Volume, read_volume
from brainfeat.preprocessing.resampling import reorient_to_ras
from brainfeat.simulation.slice_profiles import resample_axis

# Edges of the voxels along R, A and S in mm, which average what they contain; 0 keeps
# those of the scan.
VOXELS: Mapping[str, tuple[float, float, float]] = {
    "2 mm voxels": (2.0, 2.0, 2.0),
    "3 mm voxels": (3.0, 3.0, 3.0),
    "5 mm axial slices": (0.0, 0.0, 5.0),
    "4 mm sagittal slices": (4.0, 0.0, 0.0),
}
STRIPPED = "skull stripped"
CHANGES = (*VOXELS, STRIPPED)

_LARGEST_VOXEL = 2.1  # mm, of heads that are changed
_LEAST_RATIO = 1.4  # of the edges of voxels, after to before


def can_change(spacing: tuple[float, float, float], change: str) -> bool:
    """Whether a head of these voxels can be scanned so, and would differ."""
    edges = VOXELS.get(change, (0.0, 0.0, 0.0))
    return max(spacing) <= _LARGEST_VOXEL and all(
        edge == 0.0 or edge >= _LEAST_RATIO * mm
        for edge, mm in zip(edges, spacing, strict=True)
    )


def change_head(person: Person, change: str, masks: Path | None) -> Volume | None:
    """Return the T1w head of a person with a change; None without a mask to strip by.

    `masks` is a folder of masks by deepbet, for heads without another one.
    """
    volume = person.scans["T1w"].read()
    if change == STRIPPED:
        brain = find_brain(person, volume, masks)
        if brain is None:
            return None
        return Volume(np.where(brain.data, volume.data, 0), volume.geometry)
    for axis, edge in enumerate(VOXELS[change]):
        if edge:
            volume = resample_axis(volume, axis, distance=edge, width=edge)
    return volume


def find_brain(person: Person, volume: Volume, masks: Path | None) -> Volume | None:
    """Return a mask of the brain that brainfeat did not make, if there is one.

    The scan that others stripped, else what a label map encloses, else of deepbet.
    """
    if person.stripped is not None:
        stripped = reorient_to_ras(read_volume(person.stripped))
        return close_gaps(Volume(stripped.data > 0, stripped.geometry))
    if person.label_map is not None:
        return close_gaps(read_mask(person.label_map))
    return reference_mask(person.scans["T1w"], volume, masks)
