"""One head, stored and scanned in other ways, for the same brain to be found in."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from brainfeat import Geometry, Volume
from brainfeat.preprocessing.resampling import crop, reorient_to_ras

Affine = NDArray[np.float64]


class Variant(NamedTuple):
    """A volume, and how its brain moved: `move` after, `flip` before the placement."""

    name: str
    volume: Volume
    move: Affine
    flip: Affine


def make_variants(head: Volume, brain: Volume, seed: int = 0) -> Iterator[Variant]:
    """Yield variants of a head in RAS order with a mask of its brain."""
    rng = np.random.default_rng(seed)
    still = np.eye(4), np.eye(4)
    stripped = head.data * brain.data
    yield Variant("stripped", Volume(stripped, head.geometry), *still)
    yield Variant("noise in the air", _with_noise(head, rng), *still)
    yield Variant("strong bias", _with_bias(head), *still)
    yield Variant("cropped", _crop(head, brain), *still)
    yield Variant("padded", _pad(head), *still)
    yield _moved("turned", head, _turn(0.2, -0.1), np.eye(4))
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    yield _moved("mirrored header", head, mirror, mirror)


def _with_noise(head: Volume, rng: np.random.Generator) -> Volume:
    """Fill the air with noise as bright as tissue, as MP2RAGE does."""
    bright = float(np.percentile(head.data, 98.0))
    noise = rng.uniform(0.0, bright, head.data.shape)
    is_air = head.data < 0.06 * bright
    data = np.where(is_air, noise, head.data)
    return Volume(data.astype(np.float32), head.geometry)


def _with_bias(head: Volume) -> Volume:
    """Brighten the side of a coil, by a factor of four across the head."""
    axes = [np.linspace(-1.0, 1.0, size) for size in head.data.shape]
    slope = 0.3 * axes[0][:, None, None] - 0.5 * axes[1][:, None] + 0.3 * axes[2]
    return Volume((head.data * np.exp(slope)).astype(np.float32), head.geometry)


def _crop(head: Volume, brain: Volume) -> Volume:
    """Keep 8 mm around the brain."""
    inside = np.argwhere(brain.data)
    margin = np.ceil(8.0 / np.array(head.geometry.spacing)).astype(int)
    return crop(head, inside.min(axis=0) - margin, inside.max(axis=0) + 1 + margin)


def _pad(head: Volume) -> Volume:
    data = np.pad(head.data, ((31, 17), (23, 29), (37, 41)))
    affine = head.geometry.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ (31, 23, 37)
    return Volume(data, Geometry(data.shape, affine))


def _turn(pitch: float, yaw: float) -> Affine:
    about_x, about_z = np.eye(4), np.eye(4)
    c, s = np.cos(pitch), np.sin(pitch)
    about_x[1:3, 1:3] = [[c, -s], [s, c]]
    c, s = np.cos(yaw), np.sin(yaw)
    about_z[:2, :2] = [[c, -s], [s, c]]
    about_z[:3, 3] = (9.0, -14.0, 21.0)
    return np.asarray(about_z @ about_x)


def _moved(name: str, head: Volume, move: Affine, flip: Affine) -> Variant:
    geometry = Geometry(head.data.shape, move @ head.geometry.affine)
    return Variant(name, reorient_to_ras(Volume(head.data, geometry)), move, flip)
