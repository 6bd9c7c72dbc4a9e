"""Find the layout of a file, and convert its weights to ours."""

__all__ = [
    "LAYOUTS",
    "Converted",
    "convert_file",
    "convert_foreign",
    "convert_state",
    "load_foreign",
]

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from brainfeat.checkpoint.layouts.known_slabs import SLAB_LAYOUTS
from brainfeat.checkpoint.layouts.known_volumes import VOLUME_LAYOUTS
from brainfeat.checkpoint.layouts.names import without_wrappers
from brainfeat.checkpoint.layouts.resnets import RESNET_LAYOUTS
from brainfeat.checkpoint.weight_files import named_tensors, read_tensors
from brainfeat.exceptions import CheckpointError, ConfigError, list_names
from brainfeat.io.json_files import read_json
from brainfeat.models.encoders import EncoderKind
from brainfeat.models.layers import NORM_EPS

LAYOUTS = (*SLAB_LAYOUTS, *VOLUME_LAYOUTS, *RESNET_LAYOUTS)
# Less is no encoder that is known: a file with half the keys of one is more like it.
_MIN_LIKENESS = 0.2
# What names and shapes do not tell, in a config.json of transformers.
_SETTINGS: dict[str, Any] = {"hidden_act": "gelu", "layer_norm_eps": NORM_EPS}
_SETTINGS_3: dict[str, Any] = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "rope_theta": 100.0,
    "key_bias": False,
}


class Converted(NamedTuple):
    """Weights of another library, as ours."""

    encoder: EncoderKind
    state: dict[str, Tensor]  # float32
    layout: str  # as in the table of known encoders
    note: str  # on what the file has beyond the network, for a reader


def load_foreign(path: Path) -> tuple[EncoderKind, dict[str, Tensor]]:
    """Return configuration and weights of `convert_file`."""
    converted = convert_file(path)
    return converted.encoder, converted.state


def convert_file(path: Path) -> Converted:
    """Read a weights file or folder, and convert its weights to ours."""
    try:
        return convert_foreign(read_tensors(path), num_heads=_num_heads(path))
    except CheckpointError as error:
        reason = str(error).removeprefix(f"{path.name}: ")
        raise CheckpointError(f"{path}: {reason}") from error


def convert_state(
    state: Mapping[str, Any], *, num_heads: int | None = None
) -> tuple[EncoderKind, dict[str, Tensor]]:
    """Return configuration and weights of `convert_foreign`."""
    converted = convert_foreign(state, num_heads=num_heads)
    return converted.encoder, converted.state


def convert_foreign(
    state: Mapping[str, Any], *, num_heads: int | None = None
) -> Converted:
    """Rename weights in the layout of another library to ours.

    Any prefix (``teacher.``, ``backbone.``, ``module.``) and all heads are removed. A
    DINOv2 has one modality, T1w, whose three slices take the place of RGB; there a
    missing mask token becomes zeros, missing LayerScale factors become one. By default
    there is an attention head for each 64 channels, as in every known model. Raises a
    CheckpointError with the missing, unexpected and mis-shaped keys.
    """
    tensors = without_wrappers(named_tensors(state))
    scores = [layout.likeness(tensors) for layout in LAYOUTS]
    if max(scores) < _MIN_LIKENESS:
        titles = "; ".join(layout.title for layout in LAYOUTS)
        raise CheckpointError(
            f"expected transformer blocks or a residual network, of {titles}; got keys "
            f"{list_names(tensors)}."
        )
    best, *others = (i for i, score in enumerate(scores) if score == max(scores))
    layout = LAYOUTS[best]
    try:
        config, converted, note = layout.convert(tensors, num_heads)
    except ConfigError as error:
        raise CheckpointError(f"nearest layout {layout.title}: {error}") from error
    except CheckpointError as error:
        if not others:
            raise
        # Without the embedding of patches, names are those of several libraries.
        titles = "; ".join(LAYOUTS[index].title for index in others)
        raise CheckpointError(f"{error} As near: {titles}.") from error
    return Converted(config, converted, layout.name, note)


def _num_heads(path: Path) -> int | None:
    """Return the head count in the ``config.json`` of transformers, if there is one."""
    config = path / "config.json"
    if not config.is_file():
        return None
    values = read_json(config, "a model's configuration", error=CheckpointError)
    is_third = values.get("model_type") == "dinov3_vit"
    same = _SETTINGS_3 if is_third else _SETTINGS
    if values.get("use_gated_mlp"):
        same = same | {"hidden_act": "silu"}
    other = {k: values[k] for k in same if values.get(k, same[k]) != same[k]}
    if other:
        name = "DINOv3" if is_third else "DINOv2"
        raise CheckpointError(
            f"expected the architecture of {name}, got {other} in config.json."
        )
    heads = values.get("num_attention_heads")
    return heads if isinstance(heads, int) else None
