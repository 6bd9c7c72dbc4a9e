"""Hyperparameters from a JSON file, over a preset."""

__all__ = ["read_config"]

import os
from collections.abc import Mapping
from typing import Any

from brainfeat.exceptions import ConfigError
from brainfeat.io.json_files import read_json
from brainfeat.io.paths import expand_home
from brainfeat.models.config import EncoderConfig
from brainfeat.pretraining.config import PresetName, PretrainingConfig


def read_config(
    path: str | os.PathLike[str] | None,
    *,
    preset: PresetName = "small_batch",
    encoder: EncoderConfig | None = None,
    n_steps: int | None = None,
) -> PretrainingConfig:
    """Read a JSON file of fields of `PretrainingConfig`, over a preset.

    Absent fields, also of the objects in it, keep the preset's values. `encoder`
    replaces the preset's encoder; crops that are no multiple of its patch size are
    resized to the same number of patches. `n_steps` replaces the file's.
    """
    values = PretrainingConfig.preset(preset).to_dict()
    if encoder is not None:
        values = _replace_encoder(values, encoder)
    if path is not None:
        given = read_json(expand_home(path), "hyperparameters", error=ConfigError)
        values = _merge(values, given)
    if n_steps is not None:
        values["n_steps"] = n_steps
    try:
        return PretrainingConfig.from_dict(values)
    except ConfigError as error:
        where = "" if path is None else f"{os.fspath(path)}: "
        raise ConfigError(f"{where}{error}") from error


def _replace_encoder(values: dict[str, Any], encoder: EncoderConfig) -> dict[str, Any]:
    """Replace the encoder and resize the crops that are no multiple of its patches."""
    old, new = values["encoder"]["patch_size"], encoder.patch_size
    crops = {
        name: {"size": [length // old * new for length in crop["size"]]}
        for name, crop in values["views"].items()
        if name.endswith("_crops") and any(length % new for length in crop["size"])
    }
    return {**_merge(values, {"views": crops}), "encoder": encoder.to_dict()}


def _merge(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    merged = {
        name: _merge(values[name], value)
        if isinstance(value, Mapping) and isinstance(values.get(name), Mapping)
        else value
        for name, value in given.items()
    }
    return {**values, **merged}
