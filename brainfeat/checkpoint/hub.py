"""Find a checkpoint: bundled, in a local folder or file, or on the Hugging Face hub."""

__all__ = ["CONFIG_NAME", "absolute_source", "download", "locate_checkpoint"]

import os
import re
from functools import partial
from pathlib import Path

from brainfeat.exceptions import CheckpointError, import_optional
from brainfeat.io.file_kinds import describe_absence, is_address
from brainfeat.io.paths import expand_home

CONFIG_NAME = "config.json"
_BUNDLED = Path(__file__).parents[1] / "weights"
_HUB_NAME = re.compile(r"hf-hub:(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>\S+))?")


def locate_checkpoint(source: str | os.PathLike[str]) -> Path:
    """Return the file or folder of a checkpoint; download it if it is on the hub."""
    name = os.fspath(source)
    bundled = _bundled_names()
    if name in bundled:
        return _BUNDLED / name
    if name.startswith("hf-hub:"):
        return download(name)
    local = name.removeprefix("local-dir:")
    if is_address(local):
        raise CheckpointError(f"{name}: {describe_absence(local)}.")
    path = expand_home(local)
    # Path.exists raises an error if a name is too long.
    if not name or not os.path.exists(path):  # noqa: PTH110
        raise CheckpointError(
            f"unknown checkpoint {name!r}: expected one of {bundled}, an existing file "
            "or folder, or hf-hub:organisation/name."
        )
    return path


def absolute_source(source: str | os.PathLike[str]) -> str:
    """Return a name or hub address as it is, a local path as an absolute path."""
    name = os.fspath(source)
    if name in _bundled_names() or name.startswith("hf-hub:"):
        return name
    return os.fspath(locate_checkpoint(name).absolute())


def download(name: str) -> Path:
    """Return the folder of ``"hf-hub:organisation/name[@revision]"``, downloaded once.

    Pickled weights are fetched only if there are no safetensors.
    """
    match = _HUB_NAME.fullmatch(name)
    if match is None:
        raise CheckpointError(
            f"{name}: expected hf-hub:organisation/name or "
            "hf-hub:organisation/name@revision."
        )
    message = f'{name} needs huggingface_hub: pip install "brainfeat[hub]"'
    hub = import_optional("huggingface_hub", message)
    fetch = partial(hub.snapshot_download, match["repository"])
    patterns = ["*.safetensors", "*.json", "README.md"]
    try:
        for allowed in (patterns, [*patterns, "*.bin", "*.pth"]):
            folder = Path(fetch(revision=match["revision"], allow_patterns=allowed))
            if any(folder.glob("*.safetensors")):
                break
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{name}: cannot be downloaded: {reason[0]}") from error
    return folder


def _bundled_names() -> list[str]:
    return sorted(path.parent.name for path in _BUNDLED.glob(f"*/{CONFIG_NAME}"))
