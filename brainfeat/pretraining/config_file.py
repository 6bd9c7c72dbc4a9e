"""Hyperparameters as a user writes them: a JSON file over a preset."""

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
    """Read the hyperparameters of a run.

    Parameters
    ----------
    path : path-like, optional
        JSON file with an object of the fields of `PretrainingConfig`, such as the
        ``pretraining.json`` of a run. Fields that it does not have keep their
        values, also those of the objects in it.
    preset : {"small_batch", "large_batch"}
        Where the other values come from.
    encoder : EncoderConfig, optional
        Encoder that replaces the preset's. Crops that are not made of whole patches
        of it get another size, of as many patches as before.
    n_steps : int, optional
        Steps that replace the file's.

    Returns
    -------
    PretrainingConfig
        The configuration.

    Raises
    ------
    ConfigError
        If the file is missing or no JSON object, a key is unknown, or a value of
        the wrong type or impossible; it names the file.
    """
    values = PretrainingConfig.preset(preset).to_dict()
    if encoder is not None:
        values = _give_encoder(values, encoder)
    if path is not None:
        given = read_json(expand_home(path), "hyperparameters", error=ConfigError)
        values = _replace(values, given)
    if n_steps is not None:
        values["n_steps"] = n_steps
    try:
        return PretrainingConfig.from_dict(values)
    except ConfigError as error:
        where = "" if path is None else f"{os.fspath(path)}: "
        raise ConfigError(f"{where}{error}") from error


def _give_encoder(values: dict[str, Any], encoder: EncoderConfig) -> dict[str, Any]:
    """Replace the encoder; crops that it cannot cut keep their number of patches."""
    old, new = values["encoder"]["patch_size"], encoder.patch_size
    crops = {
        name: {"size": [length // old * new for length in crop["size"]]}
        for name, crop in values["views"].items()
        if name.endswith("_crops") and any(length % new for length in crop["size"])
    }
    return {**_replace(values, {"views": crops}), "encoder": encoder.to_dict()}


def _replace(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    replaced = {
        name: _replace(values[name], value)
        if isinstance(value, Mapping) and isinstance(values.get(name), Mapping)
        else value
        for name, value in given.items()
    }
    return {**values, **replaced}
