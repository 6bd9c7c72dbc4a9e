"""Regions of an atlas as weights of the encoder's tokens, with names."""

import os
import pickle
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from brainfeat.exceptions import ConfigError, InputError, brief_reason
from brainfeat.io.delimited_rows import DelimitedError, read_records
from brainfeat.io.hashing import content_hash
from brainfeat.io.paths import expand_home, image_stem
from brainfeat.io.volumes import read_labels
from brainfeat.slabs.grid import SlabGrid
from brainfeat.volume import Geometry, Volume

__all__ = ["RegionAtlas"]


@dataclass(frozen=True)
class RegionAtlas:
    """A label map in template space and the names of its regions.

    Two are equal if their label images and names are, in whatever process.

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

    labels: Volume = field(compare=False)
    values: tuple[int, ...] = field(compare=False)
    names: tuple[str, ...]
    fingerprint: str

    @classmethod
    def load(cls, labels_img: Any) -> Self:
        """Read a label image and the look-up table of its names.

        Parameters
        ----------
        labels_img : path-like, nibabel image, mapping or RegionAtlas
            Label image in MNI152 space, or a mapping with that image as ``maps`` and
            a table as ``lut``, as nilearn's atlases are. The table, a DataFrame or a
            file that ends in ``.tsv`` or ``.csv``, has the columns ``index`` and
            ``name``. Without one, that of ``atlas_dseg.nii.gz`` is
            ``atlas_dseg.tsv``, if it is there. Labels that have no name are called
            ``region_12``. An atlas that is loaded is returned as it is.

        Returns
        -------
        RegionAtlas
            The regions.

        Raises
        ------
        ConfigError
            If ``labels_img`` is neither path nor image, or its ``lut`` no table.
        InputError
            If it holds no region, or the look-up table cannot be read.
        VolumeError
            If it is no label image.
        """
        if isinstance(labels_img, cls):
            return labels_img
        lut = None
        if isinstance(labels_img, Mapping):
            labels_img, lut = labels_img.get("maps"), labels_img.get("lut")
        if not isinstance(labels_img, str | os.PathLike | SpatialImage):
            raise ConfigError(
                "labels_img: pooling='regions' expects the path of a label image, an "
                "image, or a mapping that holds it as 'maps', "
                f"got {type(labels_img).__name__}."
            )
        labels = read_labels(labels_img)
        values = tuple(int(value) for value in np.unique(labels.data) if value)
        if not values:
            raise InputError("labels_img: expected at least one region, got only 0.")
        table = _read_names(lut) if lut is not None else _names_beside(labels_img)
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

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpack, (self._packed,)

    @cached_property
    def _packed(self) -> bytes:
        # It travels with each call to a worker, and label maps shrink by far.
        parts = self.labels, self.values, self.names, self.fingerprint
        return zlib.compress(pickle.dumps(parts), level=1)


def _unpack(packed: bytes) -> RegionAtlas:
    return RegionAtlas(*pickle.loads(zlib.decompress(packed)))


def _names_beside(labels_img: Any) -> dict[int, str]:
    if isinstance(labels_img, SpatialImage):
        return {}
    image = expand_home(labels_img)
    table = image.with_name(f"{image_stem(image)}.tsv")
    return _read_names(table) if table.exists() else {}


def _read_names(lut: Any) -> dict[int, str]:
    if isinstance(lut, pd.DataFrame):
        name, table = "lut", lut
    elif isinstance(lut, str | os.PathLike):
        name, table = os.fspath(lut), _read_table(expand_home(lut))
    else:
        raise ConfigError(
            "lut: expected a DataFrame or the path of a table, "
            f"got {type(lut).__name__}."
        )
    try:
        values = [int(index) for index in table["index"]]
        names = table["name"].fillna("").astype(str).str.strip()
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{name}: expected the columns index (integers) and name."
        ) from error
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise InputError(f"{name}: expected each index once, got {repeated[0]} again.")
    return {value: text for value, text in zip(values, names, strict=True) if text}


def _read_table(path: Path) -> pd.DataFrame:
    try:
        # "None" is a name here.
        columns, records = read_records(path, convert=str.strip)
    except (OSError, DelimitedError) as error:
        raise InputError(f"{path}: cannot be read ({brief_reason(error)}).") from error
    return pd.DataFrame([*records.values()], columns=columns, dtype=str)


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
