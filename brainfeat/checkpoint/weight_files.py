"""Read weights that other libraries wrote, without running their code."""

__all__ = ["file_sha256", "named_tensors", "read_tensors"]

import hashlib
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from brainfeat.exceptions import CheckpointError
from brainfeat.io.json_files import read_json

_NESTED = ("teacher", "model", "state_dict")
_HUB_NAME = re.compile(r"hf-hub:(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>\S+))?")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read named tensors from a file or folder, never running its code.

    Reads ``.safetensors`` files, files that ``torch.save`` wrote, folders with one of
    these, and sharded safetensors.
    """
    path = Path(path)
    if path.is_dir():
        index = path / "model.safetensors.index.json"
        return (
            _read_shards(index) if index.is_file() else read_tensors(_only_file(path))
        )
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a weights file, got no such file.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path.name}: expected tensors alone, since unpickling anything else "
            "could run code."
        ) from error
    except Exception as error:  # a damaged pickle raises almost anything
        raise CheckpointError(f"{path.name}: cannot be read: {error}") from error
    return named_tensors(content)


def named_tensors(content: object) -> dict[str, Tensor]:
    """Return the weights in what a training script saved.

    They may be nested under ``"teacher"``, ``"model"`` or ``"state_dict"``.
    """
    while isinstance(content, Mapping):
        inner = [
            content[key] for key in _NESTED if isinstance(content.get(key), Mapping)
        ]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError("expected named tensors, got none.")
    others = [
        str(key) for key, value in content.items() if not isinstance(value, Tensor)
    ]
    if others:
        raise CheckpointError(
            f"expected tensors alone, got other entries: {', '.join(others)}."
        )
    return dict(content)


def _read_shards(index: Path) -> dict[str, Tensor]:
    content = read_json(index, "an index of weights", error=CheckpointError)
    shards = content.get("weight_map")
    if not isinstance(shards, dict):
        raise CheckpointError(
            f"{index.name}: expected an object weight_map, got {shards!r}."
        )
    files = sorted({str(name) for name in shards.values()})
    # A name with a folder in it could read files outside the checkpoint.
    outside = [name for name in files if Path(name).name != name]
    if outside:
        raise CheckpointError(
            f"{index.name}: expected files in its folder, got {outside}."
        )
    state: dict[str, Tensor] = {}
    for name in files:
        state |= read_tensors(index.parent / name)
    missing = sorted(set(shards) - set(state))
    if missing:
        raise CheckpointError(f"{index.name}: missing keys in the shards: {missing}.")
    return state


def _only_file(folder: Path) -> Path:
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    suffixes = {".safetensors", ".pth", ".pt", ".bin"}
    files = [path for path in sorted(folder.iterdir()) if path.suffix in suffixes]
    if len(files) != 1:
        names = [path.name for path in files]
        raise CheckpointError(f"expected one weights file in the folder, got {names}.")
    return files[0]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path.name}: cannot be read: {error}") from error
