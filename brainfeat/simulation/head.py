"""Skull, scalp, face and neck around a skull-stripped brain.

Built from signed distances to the brain and to ellipsoids for face, neck and airways.
"""

__all__ = ["HEAD_CLASSES", "build_head", "classify_head"]

import math

import torch
from torch import Generator, Tensor

from brainfeat.simulation.lattice import Lattice, refine
from brainfeat.simulation.smoothing import distance_to, smooth
from brainfeat.simulation.structures import distance_to_chains

HEAD_CLASSES = ("fluid", "soft_tissue", "bone", "marrow", "fat")

# Depths below the outside of the brain's hull, in mm.
_SKULL = (3.0, 9.5)
_TABLE = 1.8  # thickness of the inner and outer tables of the skull
_SCALP = 15.0
_SKIN = 1.6
_FAT = 5.0
_VERTEBRA = 17.0  # height with its disc, mm

# Centre and semi-axes in MNI152 mm.
_FACE = ((0.0, 44.0, -66.0), (60.0, 54.0, 62.0))
_NECK = ((0.0, -32.0, -110.0), (58.0, 60.0, 90.0))
_NOSE = ((0.0, 96.0, -62.0), (13.0, 17.0, 24.0))
_NASAL_CAVITY = ((0.0, 70.0, -58.0), (11.0, 26.0, 18.0))
_SINUS = ((0.0, 36.0, -44.0), (14.0, 11.0, 9.0))
_MOUTH = ((0.0, 60.0, -98.0), (22.0, 26.0, 5.0))
_PHARYNX = ((0.0, 14.0, -96.0), (12.0, 8.0, 34.0))

_N_PLANES = 8  # at a time, which fit in the processor's cache


def build_head(brain: Tensor, lattice: Lattice) -> dict[str, Tensor]:
    """Build maps of `HEAD_CLASSES` around a brain map; zero inside the brain."""
    coarse = lattice.coarsened(2.0)
    points = coarse.points()
    hull = _hull_distance(brain, coarse)
    outside = _smooth_minimum(hull - _SCALP, _face_distance(points))
    fields = [hull, outside, *_inner_distances(points), _texture(coarse)]
    # Distances are smooth and may be coarse; the tissue borders may not.
    fine = refine(torch.stack(fields, dim=-1)[None], lattice.shape)[0]
    planes = zip(
        *(torch.split(volume, _N_PLANES) for volume in (fine, lattice.points(), brain)),
        strict=True,
    )
    layers = [_layers(*plane) for plane in planes]
    return {name: torch.cat([layer[name] for layer in layers]) for name in HEAD_CLASSES}


def classify_head(t1: Tensor, brain: Tensor) -> dict[str, Tensor]:
    """Classify the T1w head around a brain; air and bone, both dark, stay zero."""
    soft_level, fat_level = 0.45, 1.1
    fat = ((t1 - soft_level) / (fat_level - soft_level)).clamp(0, 1)
    # Below a tenth of white matter there is only noise.
    soft = ((t1 - 0.1) / (soft_level - 0.1)).clamp(0, 1) - fat
    empty = torch.zeros_like(t1)
    head = dict.fromkeys(HEAD_CLASSES, empty)
    return head | {"soft_tissue": soft * (1 - brain), "fat": fat * (1 - brain)}


def _hull_distance(brain: Tensor, coarse: Lattice) -> Tensor:
    """Return the signed mm to the brain with its sulci and fissures closed."""
    step = max(coarse.spacing)
    reach = round(30 / step)
    mask = _nearest(brain, coarse.shape) > 0.5
    closed = distance_to(distance_to(mask, limit=reach) > 10 / step, limit=reach)
    hull = closed > 10 / step
    signed = distance_to(hull, limit=reach) - distance_to(~hull, limit=reach)
    return smooth(signed * step, 1.5)


def _nearest(values: Tensor, shape: tuple[int, int, int]) -> Tensor:
    i, j, k = (
        torch.linspace(0, n - 1, m).round().long()
        for n, m in zip(values.shape, shape, strict=True)
    )
    return values[i][:, j][:, :, k]


def _ellipsoid(
    points: Tensor, shape: tuple[tuple[float, float, float], tuple[float, float, float]]
) -> Tensor:
    center, radii = (torch.tensor(values) for values in shape)
    scaled = (points - center) / radii
    # Exact on the surface and near enough beside it.
    norm: Tensor = torch.linalg.vector_norm(scaled, dim=-1)
    slope: Tensor = torch.linalg.vector_norm(scaled / radii, dim=-1)
    return norm * (norm - 1) / slope.clamp(min=1e-6)


def _face_distance(points: Tensor) -> Tensor:
    face = _smooth_minimum(_ellipsoid(points, _FACE), _ellipsoid(points, _NECK))
    return _smooth_minimum(face, _ellipsoid(points, _NOSE))


def _inner_distances(points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the signed mm to the airways and to the eyes."""
    airways = torch.stack(
        [_ellipsoid(points, part) for part in (_NASAL_CAVITY, _SINUS, _MOUTH, _PHARYNX)]
    ).amin(0)
    right = points.clone()
    right[..., 0] = right[..., 0].abs()
    eyes = distance_to_chains(((((33, 66, -38), (33, 67, -38)), 11.5),), right)
    return airways, eyes


def _layers(fields: Tensor, points: Tensor, brain: Tensor) -> dict[str, Tensor]:
    hull, outside, airway, eye, texture = fields.unbind(-1)
    skull = _between(hull, *_SKULL) * _below(outside, -2.0)
    # Marrow is patchy: thin or absent where the texture is low.
    marrow = _between(hull, _SKULL[0] + _TABLE, _SKULL[1] - _TABLE) * skull
    marrow = marrow * (0.7 + 0.3 * texture).clamp(0, 1)
    rest = _below(outside, 0.0) * (1 - _below(hull, _SKULL[1]))
    # Under the skin, around the eyes, and in planes between the muscles.
    fat = torch.maximum(_between(outside, -_FAT, -_SKIN), _below(eye, 6.0))
    fat = torch.maximum(fat, (0.35 * texture - 0.2).clamp(0, 0.5)) * rest
    soft = (rest - fat) * (0.85 + 0.15 * texture).clamp(0.4, 1)
    eyeball = _below(eye, 0.0)
    solid = (1 - eyeball) * (1 - _below(airway, 0.0)) * (1 - brain)
    fluid = torch.maximum(_below(hull, _SKULL[0]), rest * eyeball) * (1 - brain)
    head = {
        "fluid": fluid,
        "soft_tissue": soft * solid,
        "bone": (skull - marrow) * solid,
        "marrow": marrow * solid,
        "fat": fat * solid,
    }
    return _add_spine(head, points, brain)


def _add_spine(
    head: dict[str, Tensor], points: Tensor, brain: Tensor
) -> dict[str, Tensor]:
    """Replace neck muscle by vertebrae, spinal fluid and cord."""
    x, y, z = points.unbind(-1)
    # Behind the pharynx, from the foramen magnum down.
    lower = _below(z, -66.0)
    y = y + 34 + 0.12 * (z + 70)
    canal_distance = torch.hypot(x, y)
    canal, cord = _below(canal_distance, 9.0), _below(canal_distance, 5.0)
    arch = _below(canal_distance, 12.0) - canal
    vertebra = _below(torch.hypot(x, y - 20), 12.0) * (1 - canal - arch)
    disc = (torch.cos(z * (2 * math.pi / _VERTEBRA)) * 3 - 1.8).clamp(0, 1)
    spine = {
        "fluid": canal - cord,
        "soft_tissue": cord + vertebra * disc,
        "bone": arch,
        "marrow": vertebra * (1 - disc),
        "fat": torch.zeros_like(x),
    }
    rest = 1 - lower * (canal + arch + vertebra)
    lower = lower * (1 - brain)
    return {name: head[name] * rest + lower * spine[name] for name in HEAD_CLASSES}


def _texture(coarse: Lattice) -> Tensor:
    """Draw fixed smooth noise, as muscles and marrow are not uniform."""
    generator = Generator().manual_seed(20)
    noise = torch.randn(coarse.shape, generator=generator)
    # Finer grain on coarser; both are a few millimetres wide.
    layers = [smooth(noise, sigma) for sigma in (0.8, 2.0, 4.0)]
    return torch.stack([layer / layer.std() for layer in layers]).sum(0) / 3**0.5


def _below(distance: Tensor, level: float) -> Tensor:
    return (level - distance + 0.5).clamp(0, 1)


def _between(distance: Tensor, low: float, high: float) -> Tensor:
    return _below(distance, high) - _below(distance, low)


def _smooth_minimum(a: Tensor, b: Tensor) -> Tensor:
    width = 10.0  # mm
    gap = (0.5 + 0.5 * (b - a) / width).clamp(0, 1)
    return b + (a - b) * gap - width * gap * (1 - gap)
