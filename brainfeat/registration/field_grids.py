"""Displacements in mm on any grid: inverted, or resampled to one for ITK."""

__all__ = ["invert_field", "straighten"]

import numpy as np
import torch
from numpy.typing import NDArray

from brainfeat.registration.fields import invert
from brainfeat.registration.warping import sample_field
from brainfeat.volume import Geometry

Field = NDArray[np.float32]

_TOLERANCE = 1e-4  # of the cosine of the angle between axes


def invert_field(field: Field, grid: Geometry) -> Field:
    """Return the displacement in mm that takes points back."""
    linear = grid.affine[:3, :3]
    voxels = field @ np.linalg.inv(linear).T.astype(np.float32)
    back = invert(torch.from_numpy(np.ascontiguousarray(voxels.transpose(3, 0, 1, 2))))
    return back.numpy().transpose(1, 2, 3, 0) @ linear.T.astype(np.float32)


def straighten(field: Field, grid: Geometry) -> tuple[Field, Geometry]:
    """Resample a field to a grid whose axes are at right angles, if its are not."""
    spacing = np.array(grid.spacing)
    unit = grid.affine[:3, :3] / spacing
    if np.abs(unit.T @ unit - np.eye(3)).max() < _TOLERANCE:
        return field, grid
    left, _, right = np.linalg.svd(unit)
    axes = (left @ right) * spacing  # the nearest rotation
    to_axes = np.linalg.inv(axes)
    corners = np.indices((2, 2, 2)).reshape(3, -1) * (np.array(grid.shape)[:, None] - 1)
    reached = to_axes @ (grid.affine[:3, :3] @ corners + grid.affine[:3, 3:])
    first = reached.min(axis=1)
    size = np.ceil(reached.max(axis=1) - first).astype(int) + 1
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, axes @ first
    straight = Geometry((int(size[0]), int(size[1]), int(size[2])), affine)
    to_voxel = np.linalg.inv(grid.affine) @ affine
    indices = np.indices(straight.shape).reshape(3, -1).astype(np.float64)
    points = to_voxel[:3, :3] @ indices + to_voxel[:3, 3:]
    values = sample_field(field, points).T.reshape(*straight.shape, 3)
    return np.ascontiguousarray(values, np.float32), straight
