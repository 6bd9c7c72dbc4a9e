"""Turn the weights that others released into what a checkpoint needs."""

__all__ = ["ForeignWeights", "convert_foreign"]

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.checkpoint.hub import hub_origin
from brainfeat.checkpoint.known import first_of_layout, identify
from brainfeat.checkpoint.known_encoder import KnownEncoder
from brainfeat.checkpoint.layouts import convert_file
from brainfeat.checkpoint.origin import Origin, check_sha256
from brainfeat.checkpoint.weight_files import file_sha256, weights_file
from brainfeat.exceptions import CheckpointError
from brainfeat.models.config import EncoderConfig
from brainfeat.models.encoders import EncoderKind, require_slab_config
from brainfeat.models.resnet_config import ResNetConfig
from brainfeat.preprocessing.known_recipes import RECIPES, recipe_settings


class ForeignWeights(NamedTuple):
    """Configuration and parameters of an encoder of others."""

    config: CheckpointConfig
    state: dict[str, Tensor]


def convert_foreign(path: Path, known: KnownEncoder | None) -> ForeignWeights:
    """Read weights of others from a file or folder, as `known` if it is given."""
    try:
        encoder, state, layout, note = convert_file(path)
    except CheckpointError as error:
        if not path.is_dir():
            raise
        reason = str(error).removeprefix(f"{path}: ")
        raise CheckpointError(
            f"{path}: expected config.json of a brainfeat checkpoint, or weights of a "
            f"known encoder; {reason}"
        ) from error
    _check_layout(path, layout, known)
    origin, known = _find_origin(path, layout, encoder, known)
    config = CheckpointConfig(
        encoder=encoder,
        preprocessing=_preprocessing(encoder, layout, known),
        pooling="mean" if isinstance(encoder, EncoderConfig) else "default",
        missing_modalities=len(encoder.modalities) > 1,
        description=" ".join(filter(None, (_describe(path, layout, known), note))),
        origin=origin,
    )
    return ForeignWeights(config, state)


def _check_layout(path: Path, layout: str, known: KnownEncoder | None) -> None:
    if known is not None and known.layout != layout:
        raise CheckpointError(
            f"{path}: expected weights of {known.title} in the layout of "
            f"{known.layout}, got the layout of {layout}."
        )


def _find_origin(
    path: Path, layout: str, encoder: EncoderKind, known: KnownEncoder | None
) -> tuple[Origin, KnownEncoder | None]:
    """Return the origin of a file, and the encoder that it holds, if it is known."""
    file = weights_file(path)
    sha256 = file_sha256(file)
    check_sha256(file, sha256, known)
    repository, commit = hub_origin(path)
    known = known or identify(
        layout, _sizes(encoder), file=file, sha256=sha256, repository=repository
    )
    page = known.page if known else ""
    origin = Origin(
        name=known.name if known else "",
        licence=str(known.licence) if known else "",
        source=f"https://huggingface.co/{repository}" if repository else page,
        file=file.name,
        revision=commit,
        sha256=sha256,
    )
    return origin, known


def _sizes(encoder: EncoderKind) -> Mapping[str, int]:
    """Return what tells released networks apart."""
    sizes = {"embed_dim": encoder.embed_dim, "depth": encoder.depth}
    if isinstance(encoder, EncoderConfig):
        sizes["patch_size"] = encoder.patch_size
    if not isinstance(encoder, ResNetConfig):
        sizes["positions"] = prod(encoder.grid_size)
    return sizes


def _describe(path: Path, layout: str, known: KnownEncoder | None) -> str:
    if known is None:
        return f"Weights of {path.name}, of unknown origin, in the layout of {layout}."
    return f"{known.title}, trained on {known.trained_on}."


def _preprocessing(
    encoder: EncoderKind, layout: str, known: KnownEncoder | None
) -> dict[str, Any]:
    """Return the authors' recipe, for DINOv2 a grid of 1 mm, as its patches need."""
    # A network that others trained in a layout has the input for which it was made.
    owner = known or first_of_layout(layout)
    if owner is not None and owner.recipe in RECIPES:
        if isinstance(encoder, EncoderConfig):
            return recipe_settings(owner.recipe)
        return recipe_settings(owner.recipe, encoder.volume_size)
    slabs = require_slab_config(encoder)
    patch, thickness = slabs.patch_size, slabs.thickness
    steps_and_sizes = ((patch, 150), (patch, 190), (thickness, 150))
    return {
        "shape": [-(-size // step) * step for step, size in steps_and_sizes],
        "spacing": 1.0,
        "alignment": "rigid",
        "bias_correction": False,
        "brain_mask": None,
        "percentiles": [0.5, 99.5],
    }
