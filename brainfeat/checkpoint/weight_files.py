"""Read weights that other libraries wrote, without running their code."""

__all__ = [
    "check_weights_file",
    "file_sha256",
    "named_tensors",
    "read_tensors",
    "weights_file",
]

import hashlib
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from brainfeat.checkpoint.torch_files import read_torch_file
from brainfeat.checkpoint.weight_kinds import describe_other, is_safetensors
from brainfeat.checkpoint.weight_names import INDEX_NAME, STANDARD_NAMES, is_weights
from brainfeat.exceptions import CheckpointError, list_names
from brainfeat.io.file_kinds import describe_stranger, first_bytes
from brainfeat.io.json_files import read_json

# Where the weights lie in what a training script saves.
_NESTED = (
    *("teacher", "target_encoder", "model", "state_dict", "model_state_dict"),
    *("module", "encoder"),
)
# In messages about files that end too early.
_SHORT = ("EOF", "truncated", "incomplete", "invalid header length")
_TRUNCATED = (
    "expected a whole file, got one that ends too early; the download stopped, fetch "
    "it again"
)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_file(path: Path) -> Path:
    """Return the file that has the weights, for several of them their index."""
    if not path.is_dir():
        return path
    index = path / INDEX_NAME
    return index if index.is_file() else _only_file(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors from a file or folder, never running its code.

    Reads safetensors and files that ``torch.save`` wrote, whatever their names, folders
    with one of these, and sharded safetensors.
    """
    path = weights_file(path)
    if path.name == INDEX_NAME:
        return _read_shards(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a weights file, got no such file.")
    check_weights_file(path)
    other = describe_other(path)
    if other is not None:
        raise CheckpointError(f"{path.name}: expected weights, got {other}.")
    try:
        return load_file(path) if is_safetensors(path) else _read_pickled(path)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle raises almost anything
        reason = " ".join(str(error).split())
        if isinstance(error, EOFError) or any(sign in reason for sign in _SHORT):
            raise CheckpointError(f"{path.name}: {_TRUNCATED}.") from error
        raise CheckpointError(f"{path.name}: cannot be read: {reason}") from error


def _read_pickled(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a pickle; name what else it holds if it has none."""
    foreign: tuple[str, ...] = ()
    try:
        content, foreign = read_torch_file(path)
        return named_tensors(content)
    except (pickle.UnpicklingError, CheckpointError) as error:
        is_other = isinstance(error, pickle.UnpicklingError)
        if "truncated" in str(error) or not (foreign or is_other):
            raise
        what = f"objects of {list_names(foreign)}" if foreign else "other objects"
        raise CheckpointError(
            f"{path.name}: expected tensors alone, got {what}, since unpickling these "
            "could run code; save the weights: torch.save(model.state_dict(), path)."
        ) from error


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
        inner = [value for value in values if value and isinstance(value, Mapping)]
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
    for name in STANDARD_NAMES:
        if (folder / name).is_file():
            return folder / name
    files = [path for path in sorted(folder.iterdir()) if is_weights(path.name)]
    if len(files) != 1:
        names = _list_quoted(path.name for path in files)
        raise CheckpointError(f"expected one weights file in the folder, got {names}.")
    return files[0]
