"""One list of structures for the label maps of several protocols."""

import csv
from collections import defaultdict
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brainfeat.volume import Volume

TABLE = Path(__file__).resolve().parent / "label_tables" / "anatomy.tsv"
Protocol = Literal["freesurfer", "muse"]


def read_names() -> dict[int, str]:
    """Read the name of each label of the common list."""
    return {int(row["index"]): row["name"] for row in _rows()}


def to_common(volume: Volume, protocol: Protocol) -> Volume:
    """Translate a label map to the common list; uint8.

    A label of both sides, as the corpus callosum, is divided between them: a voxel
    belongs to the side that is nearer.
    """
    owners: dict[int, list[int]] = defaultdict(list)
    for row in _rows():
        for label in _labels(row[protocol]):
            owners[label].append(int(row["index"]))
    table = np.zeros(max(owners) + 1, np.uint8)
    sided = {label: index for label, (index, *others) in owners.items() if not others}
    table[list(sided)] = list(sided.values())
    data = volume.data
    common = table[np.where(data < len(table), data, 0)]
    for label, sides in owners.items():
        is_label = data == label
        if len(sides) > 1 and is_label.any():
            common[is_label] = _nearest(common, sides)[is_label]
    return Volume(common, volume.geometry)


def _nearest(labels: NDArray[np.uint8], wanted: list[int]) -> NDArray[np.uint8]:
    """Return the label of the nearest voxel that has one of some labels."""
    nearest = ndimage.distance_transform_edt(
        ~np.isin(labels, wanted), return_distances=False, return_indices=True
    )
    found: NDArray[np.uint8] = labels[tuple(nearest)]
    return found


def _labels(text: str) -> list[int]:
    """Read labels and ranges of them, as in ``3,1000-1035``."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _rows() -> list[dict[str, str]]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return [*csv.DictReader(file, delimiter="\t")]
