"""Volumes of structures, counts of lesions, and the quality of a segmentation."""

__all__ = ["UNCERTAINTY", "as_json", "measure_labels", "measure_segmentation"]

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

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
    for label, name in names.items():
        if label == 0:
            continue
        is_inside = labels == label
        n_voxels = int(np.count_nonzero(is_inside))
        row[f"{name}_ml"] = n_voxels * voxel_ml
        row[f"{name}_count"] = _count_components(is_inside) if n_voxels else 0
    # A structure that is named "brain" is kept.
    row.setdefault("brain_ml", quality.brain_ml)
    row[UNCERTAINTY] = labelled.mean_uncertainty
    return row | dict(zip(QUALITY_COLUMNS, quality, strict=True))


def _count_components(inside: NDArray[np.bool_]) -> int:
    box = ndimage.find_objects(inside.view(np.uint8))[0]
    _, count = ndimage.label(inside[box], np.ones((3, 3, 3)))
    return int(count)


def as_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return measures as JSON values: None for NaN."""
    return {k: None if _is_nan(v) else v for k, v in row.items()}


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
