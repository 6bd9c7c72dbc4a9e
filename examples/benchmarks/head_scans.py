"""Real scans of a folder with a manifest, and reference masks of their brains."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from brainfeat import Volume, read_volume, write_volume
from brainfeat.io.volumes import read_labels
from brainfeat.preprocessing.brain_mask import compute_mask
from brainfeat.preprocessing.foreground import find_flat_background
from brainfeat.preprocessing.resampling import reorient_to_ras

_CLOSING = 4.0  # mm between the labelled structures of a brain


@dataclass(frozen=True)
class Scan:
    """One row of a manifest."""

    path: Path
    name: str  # of the file, in the folder
    modality: str
    brain: str  # "head" or "stripped"
    label_map: Path | None

    @property
    def session(self) -> str:
        """What the contrasts of one session have in common: the name before them."""
        return self.name.split(f"_{self.modality}")[0]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Edges of the voxels closest to R, A and S, in mm, from the header."""
        affine = nib.load(self.path).affine
        axes = nib.io_orientation(affine)[:, 0].argsort()
        right, anterior, superior = nib.affines.voxel_sizes(affine)[axes]
        return float(right), float(anterior), float(superior)

    def read(self) -> Volume:
        """Read the volume with its axes closest to RAS."""
        return reorient_to_ras(read_volume(self.path))


def read_manifest(folder: Path, n_ixi: int | None = None) -> list[Scan]:
    """Return the scans of `manifest.tsv`; `n_ixi` limits those in the folder ixi."""
    with (folder / "manifest.tsv").open(encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file, delimiter="\t")]
    rows = [row for row in rows if row["modality"] not in {"", "label_map"}]
    ixi = [row for row in rows if row["file"].startswith("ixi/")]
    if n_ixi is not None:
        # Spread over the list, which is by subject.
        kept = {int(i) for i in np.linspace(0, len(ixi) - 1, n_ixi)} if n_ixi else set()
        dropped = {id(row) for i, row in enumerate(ixi) if i not in kept}
        rows = [row for row in rows if id(row) not in dropped]
    return [*_parse(folder, rows)]


def _parse(folder: Path, rows: list[dict[str, str]]) -> Iterator[Scan]:
    for row in rows:
        label_map = folder / row["label_map"] if row["label_map"] else None
        yield Scan(
            folder / row["file"], row["file"], row["modality"], row["brain"], label_map
        )


def reference_mask(scan: Scan, volume: Volume, cache: Path | None) -> Volume | None:
    """Return the intracranial space of a scan as booleans, None if it is not known.

    A stripped scan has its own voxels with the holes filled, a head the mask of
    deepbet if that is installed, else what its label map encloses.
    """
    if scan.brain == "stripped":
        background = find_flat_background(volume.data)
        mask = volume.data != (0.0 if background is None else background)
        return Volume(ndimage.binary_fill_holes(mask), volume.geometry)
    stem = scan.name.replace("/", "__").split(".")[0]
    cached = None if cache is None else cache / f"{stem}.nii.gz"
    if cached is not None and cached.exists():
        return read_mask(cached)
    if find_spec("deepbet") is not None:
        mask = compute_mask(volume, "deepbet")
        if cached is not None:
            cached.parent.mkdir(parents=True, exist_ok=True)
            data = mask.data.astype(np.uint8)
            write_volume(Volume(data, mask.geometry), cached)
        return mask
    return None if scan.label_map is None else close_gaps(read_mask(scan.label_map))


def litres(mask: Volume) -> float:
    """Volume of a mask."""
    voxel = abs(np.linalg.det(mask.geometry.affine[:3, :3]))
    return float(mask.data.sum() * voxel / 1e6)


def read_mask(path: Path) -> Volume:
    labels = reorient_to_ras(read_labels(path))
    return Volume(labels.data != 0, labels.geometry)


def close_gaps(mask: Volume) -> Volume:
    """Fill the fluid between labelled structures."""
    spacing = mask.geometry.spacing
    near = ndimage.distance_transform_edt(~mask.data, spacing) <= _CLOSING
    closed = ndimage.distance_transform_edt(near, spacing) > _CLOSING
    filled = ndimage.binary_fill_holes(closed | mask.data)
    return Volume(filled, mask.geometry)
