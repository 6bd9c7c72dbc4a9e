"""Regions of an atlas as weights of the encoder's tokens, with names."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from brainfeat.exceptions import ConfigError, InputError
from brainfeat.io import content_hash, read_labels
from brainfeat.slabs import SlabGrid
from brainfeat.volume import Geometry, Volume

__all__ = ["RegionAtlas"]


@dataclass(frozen=True, eq=False)
class RegionAtlas:
    """A label map in template space and the names of its regions.

    Parameters
    ----------
    labels : Volume
        Integer labels in MNI152 space; 0 is no region.
    values : tuple of int
        Labels, in ascending order.
    names : tuple of str
        One name a label.
    fingerprint : str
        SHA-256 of the label image.
    """

    labels: Volume
    values: tuple[int, ...]
    names: tuple[str, ...]
    fingerprint: str

    @classmethod
    def load(cls, labels_img: Any) -> Self:
        """Read a label image and, if there is one, the look-up table beside it.

        Parameters
        ----------
        labels_img : path-like or nibabel image
            Label image in MNI152 space. For ``atlas_dseg.nii.gz`` the names are
            looked up in ``atlas_dseg.tsv``, with the columns ``index`` and
            ``name`` as in BIDS; other labels are called ``region_12``.

        Returns
        -------
        RegionAtlas
            The regions.

        Raises
        ------
        ConfigError
            If ``labels_img`` is neither path nor image.
        InputError
            If it holds no region, or the look-up table cannot be read.
        VolumeError
            If it is no label image.
        """
        if not isinstance(labels_img, str | os.PathLike | SpatialImage):
            raise ConfigError(
                "labels_img: pooling='regions' expects the path of a label image or "
                f"an image, got {type(labels_img).__name__}."
            )
        labels = read_labels(labels_img)
        values = tuple(int(value) for value in np.unique(labels.data) if value)
        if not values:
            raise InputError("labels_img: expected at least one region, got only 0.")
        table = {} if isinstance(labels_img, SpatialImage) else _look_up(labels_img)
        names = tuple(table.get(value, f"region_{value}") for value in values)
        if len(set(names)) < len(names):
            raise InputError("labels_img: the look-up table names two regions alike.")
        return cls(labels, values, names, content_hash(labels_img))

    def weights(
        self, geometry: Geometry, grid: SlabGrid, patch_size: int
    ) -> NDArray[np.float32]:
        """Compute the share of each token that each region fills.

        Parameters
        ----------
        geometry : Geometry
            Grid of the encoder, in template space.
        grid : SlabGrid
            How the grid is cut into slabs.
        patch_size : int
            Edge of a patch in voxels.

        Returns
        -------
        ndarray of float32 of shape (n_regions, n_slabs, height, width)
            Values from 0 to 1.

        Raises
        ------
        InputError
            If a region lies outside the grid or between its voxels.
        """
        labels = _nearest(self.labels, geometry)
        weights = np.stack(
            [grid.token_fractions(labels == value, patch_size) for value in self.values]
        )
        empty = weights.sum(axis=(1, 2, 3)) == 0
        if empty.any():
            names = [name for name, gone in zip(self.names, empty, strict=True) if gone]
            raise InputError(
                f"labels_img: expected regions within the encoder's grid, got no voxel "
                f"of {', '.join(names)}."
            )
        return weights


def _look_up(path: str | os.PathLike[str]) -> dict[int, str]:
    image = Path(path).expanduser()
    table = image.with_name(f"{image.name.removesuffix('.gz').rpartition('.')[0]}.tsv")
    if not table.exists():
        return {}
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    try:
        return {int(row["index"]): row["name"].strip() for row in rows}
    except (KeyError, ValueError, AttributeError) as error:
        raise InputError(
            f"{table}: expected the columns index (integers) and name."
        ) from error


def _nearest(labels: Volume, geometry: Geometry) -> NDArray[Any]:
    """Return the label at each voxel of the grid, 0 outside of the label map."""
    to_labels = np.linalg.inv(labels.geometry.affine) @ geometry.affine
    voxels = np.indices(geometry.shape).reshape(3, -1)
    nearest = np.rint(to_labels[:3, :3] @ voxels + to_labels[:3, 3:]).astype(int)
    sizes = np.array(labels.geometry.shape)[:, None]
    inside = ((nearest >= 0) & (nearest < sizes)).all(axis=0)
    found = np.zeros(voxels.shape[1], dtype=labels.data.dtype)
    found[inside] = labels.data[tuple(nearest[:, inside])]
    return found.reshape(geometry.shape)
