"""Regions of an atlas, and their weights over the encoder's tokens."""

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

from brainfeat.checkpoint.encoder_grid import EncoderGrid
from brainfeat.exceptions import ConfigError, InputError, brief_reason
from brainfeat.io.delimited_rows import DelimitedError, read_records
from brainfeat.io.hashing import content_hash
from brainfeat.io.paths import expand_home, image_stem
from brainfeat.io.volumes import read_labels
from brainfeat.volume import Geometry, Volume

__all__ = ["RegionAtlas"]


@dataclass(frozen=True)
class RegionAtlas:
    """A label map in MNI152 space and names of its regions; label 0 is no region."""

    # Two are equal if their label images and names are, in any process.
    labels: Volume = field(compare=False)
    values: tuple[int, ...] = field(compare=False)
    names: tuple[str, ...]
    fingerprint: str

    @classmethod
    def load(cls, labels_img: Any) -> Self:
        """Read a label image, and the names of its regions.

        ``labels_img`` is a path, an image, an atlas, or a mapping with a label image
        ``maps`` and a table ``lut`` like nilearn's atlases. The table, a DataFrame or
        a TSV or CSV file with the columns ``index`` and ``name``, is by default
        ``atlas_dseg.tsv`` beside ``atlas_dseg.nii.gz``. A region without a name is
        called ``region_12``.
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

    def weights(self, geometry: Geometry, grid: EncoderGrid) -> NDArray[np.float32]:
        """Return the fraction of each token in each region, of shape (R, S, h, w)."""
        labels = _nearest(self.labels, geometry)
        weights = np.stack(
            [grid.token_fractions(labels == value) for value in self.values]
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
        # Sent with each call to a worker; label maps compress well.
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
    values = np.zeros(voxels.shape[1], dtype=labels.data.dtype)
    values[inside] = labels.data[tuple(nearest[:, inside])]
    return values.reshape(geometry.shape)
