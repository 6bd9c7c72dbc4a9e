"""Reading weights that other libraries wrote, without running their code."""

__all__ = ["download", "file_sha256", "named_tensors", "read_foreign"]

import hashlib
import os
import pickle
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from brainfeat.exceptions import CheckpointError, MissingDependencyError
from brainfeat.io.json_files import read_json

_NESTED = ("teacher", "model", "state_dict")
_HUB_NAME = re.compile(r"hf-hub:(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>\S+))?")


def file_sha256(path: Path) -> str:
    """Fingerprint a file.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    str
        SHA-256 in hexadecimal.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_foreign(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a weights file or folder, never running its code.

    Parameters
    ----------
    path : path
        A ``.safetensors`` file; a file that ``torch.save`` wrote (``.pth``,
        ``.pt``, ``.bin``), perhaps with the weights nested under ``"teacher"``,
        ``"model"`` or ``"state_dict"``; or a folder with one of these or a
        sharded safetensors index.

    Returns
    -------
    dict of str to Tensor
        Tensors under the names of the file.

    Raises
    ------
    CheckpointError
        If there are no weights, or a pickle holds more than plain tensors.
    """
    path = Path(path)
    if path.is_dir():
        index = path / "model.safetensors.index.json"
        return (
            _read_shards(index) if index.is_file() else read_foreign(_only_file(path))
        )
    if not path.is_file():
        raise CheckpointError(f"no weights file at {path}.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"refused {path.name}: it is no plain set of tensors, and unpickling "
            "anything else could run code."
        ) from error
    except Exception as error:  # a damaged pickle raises almost anything
        raise CheckpointError(f"cannot read {path.name}: {error}") from error
    return named_tensors(content)


def download(name: str) -> Path:
    """Fetch a model folder from the Hugging Face hub, or find it in its cache.

    Parameters
    ----------
    name : str
        ``"hf-hub:organisation/name"``, with ``"@revision"`` (a branch, tag or
        commit) to keep to one version.

    Returns
    -------
    Path
        The local folder.

    Raises
    ------
    MissingDependencyError
        If ``huggingface_hub`` is not installed.
    CheckpointError
        If the name is malformed or the folder cannot be had.
    """
    match = _HUB_NAME.fullmatch(name)
    if match is None:
        raise CheckpointError(
            f"{name}: expected hf-hub:organisation/name or "
            "hf-hub:organisation/name@revision."
        )
    try:
        hub = import_module("huggingface_hub")
    except ImportError as error:
        raise MissingDependencyError(
            f'{name} needs huggingface_hub: pip install "brainfeat[hub]"'
        ) from error
    patterns = ["*.safetensors", "*.json", "README.md"]
    try:
        folder = Path(_snapshot(hub, match, patterns))
        if not any(folder.glob("*.safetensors")):
            folder = Path(_snapshot(hub, match, [*patterns, "*.bin", "*.pth"]))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{name}: cannot be downloaded: {reason[0]}") from error
    return folder


def named_tensors(content: object) -> dict[str, Tensor]:
    """Find the weights in what a training script saved.

    Parameters
    ----------
    content : object
        A mapping of names to tensors, perhaps nested under ``"teacher"``,
        ``"model"`` or ``"state_dict"``.

    Returns
    -------
    dict of str to Tensor
        The innermost mapping.

    Raises
    ------
    CheckpointError
        If it holds anything but tensors.
    """
    while isinstance(content, Mapping):
        inner = [
            content[key] for key in _NESTED if isinstance(content.get(key), Mapping)
        ]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError("it holds no named tensors.")
    others = [
        str(key) for key, value in content.items() if not isinstance(value, Tensor)
    ]
    if others:
        raise CheckpointError(f"these entries are no tensors: {', '.join(others)}.")
    return dict(content)


def _snapshot(hub: ModuleType, name: re.Match[str], patterns: list[str]) -> str:
    folder: str = hub.snapshot_download(
        name["repository"], revision=name["revision"], allow_patterns=patterns
    )
    return folder


def _read_shards(index: Path) -> dict[str, Tensor]:
    content = read_json(index, "an index of weights", error=CheckpointError)
    shards = content.get("weight_map")
    if not isinstance(shards, dict):
        raise CheckpointError(f"{index.name} has no weight_map.")
    files = sorted({str(name) for name in shards.values()})
    # A name with a folder in it could reach outside of the checkpoint.
    outside = [name for name in files if Path(name).name != name]
    if outside:
        raise CheckpointError(
            f"{index.name} names files outside its folder: {outside}."
        )
    state: dict[str, Tensor] = {}
    for name in files:
        state |= read_foreign(index.parent / name)
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
        raise CheckpointError(f"cannot read {path.name}: {error}") from error
