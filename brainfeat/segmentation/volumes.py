"""Volumes of structures, counts of lesions, and the quality of a segmentation."""

__all__ = ["UNCERTAINTY", "as_json", "measure_labels", "measure_segmentation"]

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brainfeat.segmentation.boxes import find_box
from brainfeat.segmentation.prediction import Labelled, Segmentation
from brainfeat.subjects.subject import QUALITY_COLUMNS

UNCERTAINTY = "mean_uncertainty"


def measure_segmentation(
    segmentation: Segmentation, names: Mapping[int, str]
) -> dict[str, float | int | str]:
    """Label a subject, and measure it as `measure_labels` does."""
    return measure_labels(segmentation.label(), segmentation, names)


def measure_labels(
    labelled: Labelled, segmentation: Segmentation, names: Mapping[int, str]
) -> dict[str, float | int | str]:
    """Measure a label map; ``names`` are of its classes, 0 (background) first.

    Of each structure, the millilitres and the number of connected components, in which
    voxels touch by a face, an edge or a corner.
    """
    labels, quality = labelled.labels, segmentation.inputs.coarse.quality
    grid = segmentation.grid.geometry
    voxel_ml = abs(float(np.linalg.det(grid.affine[:3, :3]))) / 1000.0
    row: dict[str, float | int | str] = {}
    structures = {label: name for label, name in names.items() if label != 0}
    parts = _find_structures(labels, [*structures])
    for (label, name), part in zip(structures.items(), parts, strict=True):
        n_voxels = 0 if part is None else int(np.count_nonzero(part == label))
        row[f"{name}_ml"] = n_voxels * voxel_ml
        row[f"{name}_count"] = 0 if part is None else _count_components(part == label)
    # A structure that is named "brain" is kept.
    row.setdefault("brain_ml", quality.brain_ml)
    row[UNCERTAINTY] = labelled.mean_uncertainty
    return row | dict(zip(QUALITY_COLUMNS, quality, strict=True))


def _find_structures(
    labels: NDArray[np.integer[Any]], classes: Sequence[int]
) -> list[NDArray[np.integer[Any]] | None]:
    """Cut the label map to the box of each class; None for those without a voxel."""
    box = find_box(labels != 0)
    if box is None:
        return [None] * len(classes)
    labelled = labels[box]
    known = np.array(sorted({0, *classes}))
    indices = np.searchsorted(known, labelled).astype(np.int32) + 1
    found = ndimage.find_objects(indices, len(known))
    boxes = (found[int(np.searchsorted(known, label))] for label in classes)
    return [None if inner is None else labelled[inner] for inner in boxes]


def _count_components(inside: NDArray[np.bool_]) -> int:
    _, count = ndimage.label(inside, np.ones((3, 3, 3)))
    return int(count)


def as_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return measures as JSON values: None for NaN."""
    return {k: None if _is_nan(v) else v for k, v in row.items()}


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
