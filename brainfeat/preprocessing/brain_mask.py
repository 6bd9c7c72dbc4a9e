"""Brain masks: from a file or function of the user, or from the volume."""

__all__ = [
    "BrainMask",
    "Placement",
    "compute_mask",
    "find_foreground",
    "mask_path",
    "mask_reference",
]

import os
import re
import tempfile
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from brainfeat.exceptions import ConfigError, VolumeError, import_optional
from brainfeat.io.paths import expand_home, image_stem
from brainfeat.io.volumes import read_labels, write_volume
from brainfeat.preprocessing.alignment import Alignment
from brainfeat.preprocessing.foreground import find_head
from brainfeat.preprocessing.head_model import load_depth
from brainfeat.preprocessing.resampling import crop, downsample, resample
from brainfeat.volume import Geometry, Volume

Flags = NDArray[np.bool_]
Floats = NDArray[np.float32]
BrainMask = str | Callable[[Volume], NDArray[Any]]

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_OUTLINE_SD = 2.0  # mm per unit of log odds; brains differ from the template
_CERTAIN = (0.01, 0.99)  # the network is never surer
_FAR = -100.0  # mm, beyond the template
_SEARCH_SPACING = 2.0  # mm, the accuracy of the head's edge
_DEPTH_SPACING = 4.0  # mm; the template's surface bends by 0.2 mm over it


class Placement(NamedTuple):
    """Where the encoder's grid lies in a subject."""

    grid: Geometry  # in template mm
    grid_to_scanner: NDArray[np.float64]  # template mm to scanner mm


def compute_mask(volume: Volume, brain_mask: BrainMask) -> Volume:
    """Return the boolean brain mask of a subject's first modality.

    `brain_mask` is as for `Preprocessor`. The mask is on its file's own grid or on that
    of the volume.
    """
    path = mask_path(brain_mask, volume.path)
    if path is not None:
        mask = read_labels(path)
        mask = Volume(mask.data != 0, mask.geometry)
    else:
        data = np.asarray(_resolve(brain_mask)(volume))
        if data.shape != volume.data.shape:
            raise VolumeError(
                f"brain mask: expected shape {volume.data.shape}, got {data.shape}."
            )
        if data.dtype.kind == "f" and (data != np.rint(data)).any():
            raise VolumeError(
                "brain mask: expected booleans or integers, got fractions or NaN; "
                "apply a threshold to probabilities."
            )
        mask = Volume(data != 0, volume.geometry)
    if not mask.data.any():
        raise VolumeError(f"{path or 'brain mask'}: expected a brain, got no voxel.")
    return mask


def find_foreground(
    volume: Volume, sampled: Floats, alignment: Alignment, placement: Placement
) -> Flags:
    """Find the brain on the encoder's grid without a skull strip, as booleans.

    It is the brain that the alignment found, with the fluid around it up to the skull;
    volumes that are already stripped keep their own mask. Where no brain was
    registered, it is the whole head. `sampled` is the volume on the grid, NaN outside
    its field of view.
    """
    is_inside = np.isfinite(sampled)
    if alignment.is_registered:
        brain = _resample_brain(alignment, placement) & is_inside
        if brain.any():
            return brain
    filled = np.where(is_inside, sampled, volume.data.min())
    coarse = downsample(Volume(filled, placement.grid), _SEARCH_SPACING)
    return _to_finer(find_head(coarse.data), is_inside)


def mask_path(
    brain_mask: BrainMask | None, volume_path: str | os.PathLike[str] | None
) -> Path | None:
    """Return the mask file of a volume, None if the mask is computed."""
    if not isinstance(brain_mask, str) or _names_function(brain_mask):
        return None
    if "{" not in brain_mask:
        return expand_home(brain_mask)
    if volume_path is None:
        raise ConfigError(
            f"brain_mask: {brain_mask!r} needs images from files, got one in memory."
        )
    folder, stem = Path(volume_path).parent, image_stem(volume_path)
    try:
        name = brain_mask.format(stem=stem, folder=folder)
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(
            f"brain_mask: expected {{stem}} and {{folder}} only, got {brain_mask!r}."
        ) from error
    return expand_home(name)


def mask_reference(brain_mask: BrainMask | None) -> str | None:
    """Return a mask setting as text, ``"module:function"`` for a function."""
    if brain_mask is None or isinstance(brain_mask, str):
        return brain_mask
    text = f"{brain_mask.__module__}:{getattr(brain_mask, '__qualname__', '?')}"
    if brain_mask.__module__ == "__main__" or not _REFERENCE.fullmatch(text):
        raise ConfigError(
            f"brain_mask: expected a function at the top level of an importable "
            f"module, got {text}."
        )
    return text


def _names_function(text: str) -> bool:
    return text == "deepbet" or _REFERENCE.fullmatch(text) is not None


def _resolve(brain_mask: BrainMask) -> Callable[[Volume], Any]:
    if not isinstance(brain_mask, str):
        return brain_mask
    if brain_mask == "deepbet":
        return _run_deepbet
    module, _, name = brain_mask.partition(":")
    try:
        function: Any = import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"brain_mask: cannot import {brain_mask}: {error}") from None
    if not callable(function):
        raise ConfigError(f"brain_mask: expected a function, got {brain_mask!r}.")
    return cast("Callable[[Volume], Any]", function)


def _run_deepbet(volume: Volume) -> NDArray[np.bool_]:
    message = 'brain_mask: "deepbet" needs an extra: pip install "brainfeat[deepbet]"'
    deepbet = import_optional("deepbet", message)
    with tempfile.TemporaryDirectory() as folder:
        # deepbet reads and writes files.
        source = write_volume(volume, Path(folder, "head.nii.gz"))
        target = Path(folder, "mask.nii.gz")
        deepbet.run_bet([str(source)], None, [str(target)], no_gpu=True)
        return np.asarray(read_labels(target).data > 0)


def _resample_brain(alignment: Alignment, placement: Placement) -> Flags:
    brain = alignment.brain
    if brain is not None and brain.is_stripped:
        return np.asarray(resample(brain.mask, *placement) >= 0.5)
    to_template = np.linalg.inv(alignment.affine) @ placement.grid_to_scanner
    if brain is None:
        depth = resample(load_depth(), placement.grid, to_template, outside=_FAR)
        return np.asarray(depth >= 0)
    found = Volume(np.zeros(placement.grid.shape, bool, order="F"), placement.grid)
    near = _crop_to_brain(found, brain.fraction, placement.grid_to_scanner)
    nodes, factors = _thin_out(near.geometry, _SEARCH_SPACING)
    fraction = resample(brain.mask, nodes, placement.grid_to_scanner)
    # The template's outline is the prior of the network's, and far smoother.
    few, steps = _thin_out(nodes, _DEPTH_SPACING)
    prior: Floats = resample(_load_depth(), few, to_template, outside=_FAR)
    prior /= np.float32(_OUTLINE_SD)
    odds: Floats = fraction.clip(*_CERTAIN)
    odds /= 1.0 - odds
    np.log(odds, out=odds)
    odds += _interpolate(prior, steps, odds.shape)
    np.greater_equal(_interpolate(odds, factors, near.data.shape), 0.0, out=near.data)
    return found.data


@cache
def _load_depth() -> Volume:
    return downsample(load_depth(), _DEPTH_SPACING)


def _thin_out(grid: Geometry, spacing: float) -> tuple[Geometry, list[int]]:
    """Return every n-th voxel along each axis, up to `spacing` mm apart.

    Also returns n for each axis. The last voxels lie on the grid's end or beyond it.
    """
    factors = [max(1, int(spacing / mm + 1e-3)) for mm in grid.spacing]
    pairs = zip(grid.shape, factors, strict=True)
    i, j, k = (1 - (1 - size) // factor for size, factor in pairs)
    return Geometry((i, j, k), grid.affine @ np.diag([*factors, 1.0])), factors


def _interpolate(data: Floats, factors: list[int], shape: tuple[int, ...]) -> Floats:
    """Interpolate linearly between every n-th voxel along each axis."""
    data = data.T  # in memory order
    sizes = zip(factors[::-1], shape[::-1], strict=True)
    for axis, (factor, size) in enumerate(sizes):
        if factor == 1:
            continue
        before = (slice(None),) * axis
        finer_shape = (*data.shape[:axis], size, *data.shape[axis + 1 :])
        finer = np.empty(finer_shape, np.float32)
        for offset in range(factor):
            part = finer[(*before, slice(offset, None, factor))]
            n_nodes = part.shape[axis]
            near = data[(*before, slice(n_nodes))]
            if offset:
                np.subtract(data[(*before, slice(1, n_nodes + 1))], near, out=part)
                part *= np.float32(offset / factor)
                part += near
            else:
                part[...] = near
        data = finer
    return data.T


def _crop_to_brain(
    found: Volume, fraction: Volume, grid_to_scanner: NDArray[np.float64]
) -> Volume:
    """Crop a grid, as a view, to what a voxel with brain may touch."""
    to_grid = np.linalg.inv(grid_to_scanner @ found.geometry.affine)
    to_grid = to_grid @ fraction.geometry.affine
    ends = fraction.data > 0.0
    # What lies between two others is at no end.
    ends[1:-1] &= ~(ends[:-2] & ends[2:])
    points = np.argwhere(ends) @ to_grid[:3, :3].T + to_grid[:3, 3]
    reach = np.abs(to_grid[:3, :3]).sum(axis=1) + 1.0
    shape = np.array(found.geometry.shape)
    start = np.floor(points.min(axis=0) - reach).clip(0, shape - 1).astype(int)
    stop = np.ceil(points.max(axis=0) + reach).clip(start + 1, shape).astype(int)
    return crop(found, start, stop)


def _to_finer(mask: Flags, is_inside: Flags) -> Flags:
    """Repeat the voxels of a mask on a finer grid, within the field of view."""
    finer = mask.T
    for axis, size in enumerate(is_inside.shape[::-1]):
        n_blocks = finer.shape[axis]
        # Voxels beyond the last whole block repeat it.
        blocks = np.minimum(np.arange(size) // (size // n_blocks), n_blocks - 1)
        finer = np.take(finer, blocks, axis)
    return finer.T & is_inside
