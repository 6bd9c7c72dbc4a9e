"""Base anatomies from files: the MNI152 template, or a T1w volume with its mask."""

__all__ = ["load_base"]

import os
from functools import lru_cache

from brainfeat.exceptions import InputError
from brainfeat.io.volumes import read_volume
from brainfeat.preprocessing.alignment import align_to_template
from brainfeat.preprocessing.template import load_template
from brainfeat.simulation.anatomy import BaseAnatomy
from brainfeat.volume import Volume


@lru_cache(maxsize=2)
def load_base(
    t1: str | os.PathLike[str] | None = None,
    mask: str | os.PathLike[str] | None = None,
    *,
    spacing: float = 1.0,
) -> BaseAnatomy:
    """Build a base anatomy; the last two are cached. `spacing` is in mm."""
    if t1 is None and mask is None:
        names = ("T1w", "gray_matter", "white_matter", "brain_mask")
        return BaseAnatomy.from_template(*map(load_template, names), spacing=spacing)
    if t1 is None or mask is None:
        raise InputError("expected a T1w volume and its brain mask, got one of them.")
    volume, brain = read_volume(t1), read_volume(mask)
    if not brain.geometry.is_close(volume.geometry):
        raise InputError(
            f"{os.fspath(mask)}: expected the grid of {os.fspath(t1)}, "
            f"got shape {brain.geometry.shape}, not {volume.geometry.shape}, "
            "or another affine."
        )
    # The mask is known, so register without the skull.
    stripped = Volume(volume.data * (brain.data > 0), volume.geometry)
    return BaseAnatomy.from_t1(
        volume,
        brain,
        spacing=spacing,
        template_to_scanner=align_to_template(stripped).affine,
    )
