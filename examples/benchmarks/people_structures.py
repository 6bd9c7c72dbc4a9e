"""True volumes of structures from label maps of two kinds."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from brainfeat.io.volumes import read_labels

Codes = Mapping[str, tuple[int, ...]]

# Right and left of MUSE, as DLMUSE writes them.
_MUSE_PAIRS = {
    "lateral_ventricle": (51, 52),
    "inferior_lateral_ventricle": (49, 50),
    "hippocampus": (47, 48),
    "amygdala": (31, 32),
    "thalamus": (59, 60),
    "caudate": (36, 37),
    "putamen": (57, 58),
    "pallidum": (55, 56),
    "accumbens": (23, 30),
    "ventral_diencephalon": (61, 62),
    "cerebellum_white_matter": (40, 41),
}
# The right side; the left one is the next number.
_MUSE_LOBES = {
    "frontal": (
        *(104, 112, 118, 120, 124, 136, 140, 142, 146, 150),
        *(152, 162, 164, 178, 182, 186, 190, 192, 204),
    ),
    "parietal": (106, 148, 168, 174, 176, 194, 198),
    "temporal": (116, 122, 132, 154, 170, 180, 184, 200, 202, 206),
    "occipital": (108, 114, 128, 134, 144, 156, 160, 196),
    "cingulate": (100, 138, 166),
    "insula": (102, 172),
}
_MUSE_SINGLE = {
    "third_ventricle": (4,),
    "fourth_ventricle": (11,),
    "brain_stem": (35,),
    "cerebellum_cortex": (38, 39, 71, 72, 73),
    "cerebral_white_matter": tuple(range(81, 96)),
    "csf": (1, 4, 11, 46),
}

# Left and right of FreeSurfer.
_FREESURFER_PAIRS = {
    "lateral_ventricle": (4, 43),
    "inferior_lateral_ventricle": (5, 44),
    "hippocampus": (17, 53),
    "amygdala": (18, 54),
    "thalamus": (10, 49),
    "caudate": (11, 50),
    "putamen": (12, 51),
    "pallidum": (13, 52),
    "accumbens": (26, 58),
    "ventral_diencephalon": (28, 60),
    "cerebellum_white_matter": (7, 46),
}
# Of the left side, less 1000; those of the right side are 1000 more.
_FREESURFER_LOBES = {
    "frontal": (3, 12, 14, 17, 18, 19, 20, 24, 27, 28, 32),
    "parietal": (8, 22, 25, 29, 31),
    "temporal": (1, 6, 7, 9, 15, 16, 30, 33, 34),
    "occipital": (5, 11, 13, 21),
    "cingulate": (2, 10, 23, 26),
    "insula": (35,),
}
_FREESURFER_SINGLE = {
    "third_ventricle": (14,),
    "fourth_ventricle": (15,),
    "brain_stem": (16,),
    "cerebellum_cortex": (8, 47),
    "cerebral_white_matter": (2, 41, 77, 85, 251, 252, 253, 254, 255),
}
_TISSUES = {
    "gray_matter": ("cortex", "cerebellum_cortex", "accumbens"),
    "white_matter": (
        *("cerebral_white_matter", "cerebellum_white_matter"),
        *("brain_stem", "ventral_diencephalon"),
    ),
    "ventricle": ("lateral_ventricle", "inferior_lateral_ventricle"),
    "medial_temporal": ("hippocampus", "amygdala"),
    "deep_gray": ("thalamus", "caudate", "putamen", "pallidum"),
}


def muse_codes() -> Codes:
    """Return the codes of each structure in the maps of DLMUSE."""
    codes = dict(_MUSE_SINGLE)
    for name, (right, left) in _MUSE_PAIRS.items():
        codes |= {f"{name}_left": (left,), f"{name}_right": (right,)}
    for lobe, right_codes in _MUSE_LOBES.items():
        codes[f"{lobe}_cortex_right"] = right_codes
        codes[f"{lobe}_cortex_left"] = tuple(code + 1 for code in right_codes)
    return _with_sums(codes, _MUSE_LOBES)


def freesurfer_codes() -> Codes:
    """Return the codes of each structure in aparc+aseg; its CSF is not all of it."""
    codes = dict(_FREESURFER_SINGLE)
    for name, (left, right) in _FREESURFER_PAIRS.items():
        codes |= {f"{name}_left": (left,), f"{name}_right": (right,)}
    for lobe, numbers in _FREESURFER_LOBES.items():
        codes[f"{lobe}_cortex_left"] = tuple(1000 + number for number in numbers)
        codes[f"{lobe}_cortex_right"] = tuple(2000 + number for number in numbers)
    return _with_sums(codes, _FREESURFER_LOBES)


def true_volumes(label_map: Path) -> dict[str, float]:
    """Return the volume in ml of each structure of a label map."""
    labels = read_labels(label_map)
    values, counts = np.unique(labels.data, return_counts=True)
    voxel = abs(np.linalg.det(labels.geometry.affine[:3, :3])) / 1e3
    ml = dict(zip(values.tolist(), (counts * voxel).tolist(), strict=True))
    is_freesurfer = values.max() >= 1000
    codes = freesurfer_codes() if is_freesurfer else muse_codes()
    return {
        name: sum(ml.get(code, 0.0) for code in members)
        for name, members in codes.items()
    }


def join_sides(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the members of each structure, and of the sum of left and right."""
    names = [*names]
    members: dict[str, tuple[str, ...]] = {}
    for name in names:
        if name.endswith("_left") and f"{name[:-5]}_right" in names:
            members[name[:-5]] = (name, f"{name[:-5]}_right")
        members[name] = (name,)
    return members


def _with_sums(codes: dict[str, tuple[int, ...]], lobes: Iterable[str]) -> Codes:
    """Add the cortex of each side, sums of both sides, and tissues."""
    for side in ("left", "right"):
        parts = (codes[f"{lobe}_cortex_{side}"] for lobe in lobes)
        codes[f"cortex_{side}"] = tuple(code for part in parts for code in part)
    for name, members in join_sides(codes).items():
        codes[name] = tuple(code for member in members for code in codes[member])
    for tissue, names in _TISSUES.items():
        codes[tissue] = tuple(code for name in names for code in codes[name])
    return codes
