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
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brainfeat.exceptions import ConfigError, VolumeError, import_optional
from brainfeat.io.paths import expand_home, image_stem
from brainfeat.io.volumes import read_labels, write_volume
from brainfeat.preprocessing.alignment import Alignment
from brainfeat.preprocessing.foreground import find_flat_background, find_head
from brainfeat.preprocessing.head_model import load_depth
from brainfeat.preprocessing.resampling import crop, downsample, resample
from brainfeat.volume import Geometry, Volume

Flags = NDArray[np.bool_]
Floats = NDArray[np.float32]
BrainMask = str | Callable[[Volume], NDArray[Any]]

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
# Adult brains have 0.8 to 1.9 litres, heads three or more.
_BRAIN_LITRES = (0.3, 2.3)
_TRACE = 0.05  # of the brightest tissue
_EDGE_WIDTH = 2  # voxels affected by interpolation and ringing
# Registration errs by a few millimetres, and atrophy leaves fluid around a brain.
_TEMPLATE_MARGIN = 5.0  # mm
# Fraction of a mask that may lie beyond that margin: nearly nothing of a stripped
# brain does, but much of a head, whose skull and scalp are thicker.
_MAX_OUTSIDE = 0.2
_COARSE_SPACING = 4.0  # mm, to distinguish a head from a brain
_SEARCH_SPACING = 2.0  # mm, the accuracy of the brain's edge


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

    Volumes that are already stripped, with one value around a brain-sized remainder
    where the template's brain lies, keep their own mask. Where the template was
    registered, the foreground is its brain and the head within 5 mm of it, else the
    whole head. `sampled` is the volume on the grid, NaN outside its field of view.
    """
    stripped = _find_stripped(volume, alignment)
    if stripped is not None:
        fraction = resample(stripped, placement.grid, placement.grid_to_scanner)
        if (fraction >= 0.5).any():
            return np.asarray(fraction >= 0.5)
    is_inside = np.isfinite(sampled)
    filled = np.where(is_inside, sampled, volume.data.min())
    coarse = downsample(Volume(filled, placement.grid), _SEARCH_SPACING)
    head = find_head(coarse.data)
    if alignment.is_registered:
        to_template = np.linalg.inv(alignment.affine) @ placement.grid_to_scanner
        brain = _to_finer(_find_brain(head, coarse.geometry, to_template), is_inside)
        if brain.any():
            return brain
    return _to_finer(head, is_inside)


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


def _find_brain(head: Flags, grid: Geometry, to_template: NDArray[Any]) -> Flags:
    """Return the template's brain and the head close to it."""
    depth = resample(load_depth(), grid, to_template, outside=-np.inf)
    # Dark voxels within the brain are brain, too: fluid, or out of the coil's reach.
    return (depth >= 0) | (head & (depth >= -_TEMPLATE_MARGIN))


def _to_finer(mask: Flags, is_inside: Flags) -> Flags:
    """Repeat the voxels of a mask on a finer grid, within the field of view."""
    finer = mask.T
    for axis, size in enumerate(is_inside.shape[::-1]):
        n_blocks = finer.shape[axis]
        # Voxels beyond the last whole block repeat it.
        blocks = np.minimum(np.arange(size) // (size // n_blocks), n_blocks - 1)
        finer = np.take(finer, blocks, axis)
    return finer.T & is_inside


def _find_stripped(volume: Volume, alignment: Alignment) -> Volume | None:
    """Return the mask of a volume that is already stripped, as float32."""
    background = find_flat_background(volume.data)
    if background is None:
        return None
    coarse = downsample(volume, _COARSE_SPACING)
    # Above zero, since resampling leaves traces of interpolation in the background.
    trace = _TRACE * (np.percentile(coarse.data, 99.0) - background)
    rest = Volume(np.abs(coarse.data - background) > trace, coarse.geometry)
    if _is_wider_than_brain(rest, alignment):
        return None
    contrast = np.abs(volume.data - background)
    box = ndimage.find_objects((contrast > trace).view(np.int8))[0]
    start = np.array([side.start - _EDGE_WIDTH for side in box])
    stop = np.array([side.stop + _EDGE_WIDTH for side in box])
    near = crop(Volume(contrast, volume.geometry), start, stop)
    mask = _without_interpolated_edge(near.data > trace, near.data)
    litres = mask.sum() * abs(np.linalg.det(volume.geometry.affine[:3, :3])) / 1e6
    if not _BRAIN_LITRES[0] <= litres <= _BRAIN_LITRES[1]:
        return None
    return Volume(mask.astype(np.float32), near.geometry)


def _is_wider_than_brain(mask: Volume, alignment: Alignment) -> bool:
    """Whether a mask includes skull and scalp around the registered template."""
    if not (alignment.is_registered and mask.data.any()):
        return False
    to_template = np.linalg.inv(alignment.affine).astype(np.float64)
    depth = resample(load_depth(), mask.geometry, to_template, outside=-np.inf)
    outside = depth[mask.data] < -_TEMPLATE_MARGIN
    return bool(outside.mean() > _MAX_OUTSIDE)


def _without_interpolated_edge(mask: Flags, contrast: NDArray[Any]) -> Flags:
    """Remove edge voxels with less than half the contrast of their neighbours."""
    edge = mask & ndimage.binary_dilation(~mask, iterations=_EDGE_WIDTH)
    kept = contrast >= 0.5 * ndimage.maximum_filter(contrast, size=3)
    return np.asarray(mask & (kept | ~edge))
