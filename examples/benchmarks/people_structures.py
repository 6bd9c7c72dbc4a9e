"""True volumes of structures from label maps of two kinds."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from brainfeat.io.volumes import read_labels

Codes = dict[str, set[int]]

_TABLES = Path(__file__).parent.parent / "label_tables"
# FreeSurfer's aparc divides the cortex of synthseg.tsv. Of the left side, less 1000;
# those of the right side are 1000 more.
_LOBES = {
    "frontal": (3, 12, 14, 17, 18, 19, 20, 24, 27, 28, 32),
    "parietal": (8, 22, 25, 29, 31),
    "temporal": (1, 6, 7, 9, 15, 16, 30, 33, 34),
    "occipital": (5, 11, 13, 21),
    "cingulate": (2, 10, 23, 26),
    "insula": (35,),
}
_LEAST_SIDE = 0.8  # of the other side
_HYPOINTENSITIES, _CALLOSUM = 77, range(251, 256)


def muse_codes() -> Codes:
    """Return the codes of each structure in the maps of DLMUSE."""
    return _with_sums(_read_codes(_TABLES / "muse.tsv"))


def freesurfer_codes() -> Codes:
    """Return the codes of each structure in aparc+aseg, which has no sulcal fluid."""
    codes = _read_codes(_TABLES / "synthseg.tsv")
    for lobe, numbers in _LOBES.items():
        for side, first in (("left", 1000), ("right", 2000)):
            members = {first + number for number in numbers}
            codes[f"{lobe}_cortex_{side}"] = members
            codes[f"cortex_{side}"] |= members
            codes["gray_matter"] |= members
    for name in ("cerebral_white_matter", "white_matter"):
        codes[name] |= {_HYPOINTENSITIES, *_CALLOSUM}
    return _with_sums(codes)


def true_volumes(label_map: Path) -> dict[str, float]:
    """Return the volume in ml of each structure of a label map."""
    labels = read_labels(label_map)
    values, counts = np.unique(labels.data, return_counts=True)
    voxel = abs(np.linalg.det(labels.geometry.affine[:3, :3])) / 1e3
    ml = dict(zip(values.tolist(), (counts * voxel).tolist(), strict=True))
    codes = freesurfer_codes() if values.max() >= 1000 else muse_codes()
    return {
        name: sum(ml.get(code, 0.0) for code in members)
        for name, members in codes.items()
    }


def confuses_sides(truth: Mapping[str, float]) -> bool:
    """Whether a label map gives most of one side of the cortex to the other.

    Some automatic maps do; the sides of a whole brain differ by a few per cent.
    """
    sides = truth.get("cortex_left", 0.0), truth.get("cortex_right", 0.0)
    return min(sides) < _LEAST_SIDE * max(sides)


def join_sides(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the members of each structure, and of the sum of left and right."""
    names = [*names]
    members: dict[str, tuple[str, ...]] = {}
    for name in names:
        if name.endswith("_left") and f"{name[:-5]}_right" in names:
            members[name[:-5]] = (name, f"{name[:-5]}_right")
        members[name] = (name,)
    return members


def _read_codes(table: Path) -> Codes:
    codes: Codes = {}
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["name"]:
                codes.setdefault(row["name"], set()).add(int(row["index"]))
    return codes


def _with_sums(codes: Codes) -> Codes:
    """Add the sums of left and right."""
    return {
        name: set.union(*(codes[member] for member in members))
        for name, members in join_sides(codes).items()
    }
