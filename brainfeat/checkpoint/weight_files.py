"""Read weights that other libraries wrote, without running their code."""

__all__ = ["check_weights_file", "file_sha256", "named_tensors", "read_tensors"]

import hashlib
import pickle
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from brainfeat.exceptions import CheckpointError, list_names
from brainfeat.io.file_kinds import describe_stranger, first_bytes
from brainfeat.io.json_files import read_json

_NESTED = ("teacher", "model", "state_dict", "model_state_dict", "module")
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


class _Inert:
    """Stands for an object of a foreign class: runs nothing and keeps nothing."""

    def __new__(cls, *_args: object, **_options: object) -> "_Inert":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Drop the state."""


class _InertDict:
    """Stands for a foreign mapping: keeps its items, in another type."""

    def __new__(cls, *_args: object, **_options: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]  # see above
        return OrderedDict()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors from a file or folder, never running its code.

    Reads ``.safetensors`` files, files that ``torch.save`` wrote, folders with one of
    these, and sharded safetensors.
    """
    if path.is_dir():
        index = path / "model.safetensors.index.json"
        if index.is_file():
            return _read_shards(index)
        return read_tensors(_only_file(path))
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a weights file, got no such file.")
    check_weights_file(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return named_tensors(_read_pickle(path))
    except (pickle.UnpicklingError, CheckpointError) as error:
        foreign = _foreign_names(path)
        if isinstance(error, CheckpointError) and not foreign:
            raise
        what = f"objects of {list_names(foreign)}" if foreign else "other objects"
        raise CheckpointError(
            f"{path.name}: expected tensors alone, got {what}, since unpickling these "
            "could run code; save the weights: torch.save(model.state_dict(), path)."
        ) from error
    except Exception as error:  # a damaged pickle raises almost anything
        raise CheckpointError(f"{path.name}: cannot be read: {error}") from error


def check_weights_file(path: Path) -> None:
    """Raise a CheckpointError if a pointer or a web page lies in place of weights."""
    stranger = describe_stranger(first_bytes(path))
    if stranger is not None:
        raise CheckpointError(f"{path.name}: expected weights, got {stranger}.")


def named_tensors(content: object) -> dict[str, Tensor]:
    """Return the weights in what a training script saved.

    They may be nested under ``"teacher"``, ``"model"``, ``"state_dict"`` and the like.
    """
    while isinstance(content, Mapping):
        values = (content.get(key) for key in _NESTED)
        inner = [value for value in values if isinstance(value, Mapping)]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError("expected named tensors, got none.")
    others = [str(k) for k, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(
            f"expected tensors alone, got other entries: {list_names(others)}."
        )
    return dict(content)


def _read_pickle(path: Path) -> object:
    """Load a pickle with objects of foreign classes replaced by inert ones."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        inert: list[Any] = [
            (_InertDict if name.lower().endswith("dict") else _Inert, name)
            for name in _foreign_names(path)
        ]
        if not inert:
            raise
        with torch.serialization.safe_globals(inert):
            return torch.load(path, map_location="cpu", weights_only=True)


def _foreign_names(path: Path) -> list[str]:
    """Return the classes and functions of a pickle that torch does not load."""
    # Since torch 2.6.
    find = getattr(torch.serialization, "get_unsafe_globals_in_checkpoint", None)
    if find is None:
        return []
    try:
        return sorted(find(path))
    except Exception:  # a plain pickle, or a damaged one
        return []


def _list_quoted(names: Iterable[str]) -> str:
    return f"[{list_names(map(repr, names))}]"


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
            f"{index.name}: expected files in its folder, got {_list_quoted(outside)}."
        )
    state: dict[str, Tensor] = {}
    for name in files:
        state |= read_tensors(index.parent / name)
    missing = sorted(set(shards) - set(state))
    if missing:
        raise CheckpointError(
            f"{index.name}: missing keys in the shards: {_list_quoted(missing)}."
        )
    return state


def _only_file(folder: Path) -> Path:
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    files = [path for path in sorted(folder.iterdir()) if path.suffix in _SUFFIXES]
    if len(files) != 1:
        names = _list_quoted(path.name for path in files)
        raise CheckpointError(f"expected one weights file in the folder, got {names}.")
    return files[0]
