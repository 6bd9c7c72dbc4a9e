"""A fine-tuned model as a folder: trained weights and head, beside a named encoder."""

__all__ = [
    "CONFIG_NAME",
    "FolderContent",
    "describe_folder",
    "read_config",
    "read_folder",
    "write_folder",
]

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from brainfeat._version import __version__
from brainfeat.checkpoint.locate import absolute_source
from brainfeat.checkpoint.weight_files import file_sha256
from brainfeat.exceptions import CheckpointError, ConfigError
from brainfeat.finetuning.head import TaskHead
from brainfeat.io.atomic import atomic_write
from brainfeat.io.json_files import read_json, write_json

if TYPE_CHECKING:
    from brainfeat.finetuning.estimator import FineTunedEncoder

CONFIG_NAME = "config.json"
_WEIGHTS = "adapters.safetensors"
_FORMAT = "brainfeat-finetuned-1"
_HEAD, _UPDATE = "head.", "encoder."
# Parameters that change neither model nor predictions.
_OF_THIS_MACHINE = {"checkpoint", "device", "n_jobs", "verbose", "preprocessor"}
# Raised while reading a folder with missing, cut or foreign content.
_DAMAGES = (ConfigError, KeyError, OSError, RuntimeError, SafetensorError, TypeError)


class FolderContent(NamedTuple):
    """Parameters of the estimator's constructor, and its fitted attributes."""

    parameters: dict[str, Any]
    fitted: dict[str, Any]


def write_folder(folder: Path, estimator: "FineTunedEncoder") -> Path:
    """Write a fitted estimator."""
    if estimator.preprocessor is not None:
        raise ConfigError(
            "preprocessor: expected that of the checkpoint, which the folder names, "
            "got another: it cannot be saved."
        )
    folder.mkdir(parents=True, exist_ok=True)
    head = {_HEAD + name: value for name, value in estimator.head_.state_dict().items()}
    updates = {_UPDATE + name: value for name, value in estimator.updates_.items()}
    with atomic_write(folder / _WEIGHTS) as partial:
        tensors = {n: v.contiguous().cpu() for n, v in (head | updates).items()}
        save_file(tensors, partial)
    parameters = estimator.get_params(deep=False)
    content = {
        "format": _FORMAT,
        "library_version": __version__,
        "estimator": type(estimator).__name__,
        "base": absolute_source(estimator.checkpoint),
        "base_fingerprint": estimator.checkpoint_fingerprint_,
        "weights_sha256": file_sha256(folder / _WEIGHTS),
        "parameters": {
            name: _plain(value)
            for name, value in parameters.items()
            if name not in _OF_THIS_MACHINE
        },
        "pooling": estimator.head_.pooling,
        "fitted": {
            name: _plain(getattr(estimator, name)) for name in estimator.stored_names
        },
    }
    write_json(folder / CONFIG_NAME, content)
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """Read what a folder says of its model."""
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: expected a folder that 'brainfeat finetune' or an estimator's "
            f"save wrote, got none with {CONFIG_NAME}."
        )
    content = read_json(path, "a fine-tuned model", error=CheckpointError)
    if content.get("format") != _FORMAT:
        raise CheckpointError(
            f"{folder}: expected a fine-tuned model of format {_FORMAT!r}, got "
            f"{content.get('format')!r}."
        )
    return content


def describe_folder(folder: Path, estimator: "FineTunedEncoder") -> dict[str, Any]:
    """Return the provenance of predictions by the model of a folder, as JSON."""
    content = read_config(folder)
    return {
        "brainfeat_version": __version__,
        "model": str(folder),
        "model_sha256": content["weights_sha256"],
        "estimator": content["estimator"],
        "base": content["base"],
        "base_fingerprint": content["base_fingerprint"],
        "modalities": list(estimator.modalities_),
    }


def read_folder(folder: Path, estimator: str) -> FolderContent:
    """Read what `write_folder` wrote, and check that no file was replaced."""
    content = read_config(folder)
    if content.get("estimator") != estimator:
        raise CheckpointError(
            f"{folder}: expected a {estimator}, got a {content.get('estimator')}."
        )
    try:
        tensors = _read_tensors(folder / _WEIGHTS, content["weights_sha256"])
        head = _read_head(tensors, content["pooling"])
        fitted = {name: _restore(v) for name, v in content["fitted"].items()}
        fitted["modalities_"] = tuple(fitted["modalities_"])
        fitted |= {
            "checkpoint_fingerprint_": content["base_fingerprint"],
            "head_": head,
            "updates_": {
                name.removeprefix(_UPDATE): value
                for name, value in tensors.items()
                if name.startswith(_UPDATE)
            },
        }
        parameters = {"checkpoint": content["base"], **content["parameters"]}
        return FolderContent(parameters, fitted)
    except _DAMAGES as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder}: damaged ({reason}).") from error


def _read_tensors(path: Path, expected: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; it held the trained weights.")
    if file_sha256(path) != expected:
        raise CheckpointError(
            f"{path}: the weights do not have the SHA-256 that {CONFIG_NAME} names; "
            "the file is damaged or was replaced."
        )
    return load_file(path)


def _read_head(tensors: Mapping[str, Tensor], pooling: Any) -> TaskHead:
    state = {
        name.removeprefix(_HEAD): value
        for name, value in tensors.items()
        if name.startswith(_HEAD)
    }
    n_outputs, embed_dim = state["weight"].shape
    head = TaskHead(embed_dim, n_outputs, pooling)
    head.load_state_dict(state)
    return head.requires_grad_(requires_grad=False)


def _plain(value: Any) -> Any:
    """Convert to a JSON value; what has none, such as a generator, to None."""
    if isinstance(value, np.ndarray):
        return {"dtype": value.dtype.str, "values": value.tolist()}
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, dict):
        return {"items": [[_plain(k), _plain(v)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float | None) else None


def _restore(value: Any) -> Any:
    """Read what `_plain` converted; lists stay lists."""
    if isinstance(value, list):
        return [_restore(one) for one in value]
    if not isinstance(value, dict):
        return value
    if "float" in value:
        return float(value["float"])
    if "items" in value:
        return {k: _restore(v) for k, v in value["items"]}
    values = np.array(value["values"], dtype=object)
    dtype = np.dtype(value["dtype"])
    return values if dtype.kind == "O" else values.astype(dtype)
