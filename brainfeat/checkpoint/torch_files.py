"""Read what ``torch.save`` wrote without running the code that a pickle may name."""

__all__ = ["foreign_names", "read_pickle"]

import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch

# Names of classes whose pickles are filled item by item.
_MAPPINGS = re.compile(r"(dict|config|munch|bunch|box)$", re.IGNORECASE)
_SEQUENCES = re.compile(r"(list|deque)$", re.IGNORECASE)
# What torch itself allows.
_TENSOR_PARTS = re.compile(
    r"torch\._utils\._rebuild_\w+|torch\.\w*(Storage|Size|device|Tensor)"
    r"|torch\.(b?float|double|half|u?int|long|bool)\d*|collections\.OrderedDict"
    r"|torch\.nn\.parameter\.\w+|torch\.storage\.\w+|_codecs\.encode"
)
_MAX_PICKLES = 5  # magic number, version, system, content and keys of storages


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


class _InertList:
    """Stands for a foreign sequence: keeps its items, in another type."""

    def __new__(cls, *_args: object, **_options: object) -> list[Any]:  # type: ignore[misc]  # see above
        return []


def read_pickle(path: Path) -> object:
    """Load a pickle with objects of foreign classes replaced by inert ones.

    torch's own reader calls nothing but what builds tensors and these replacements;
    it refuses the modules ``os`` and ``sys``, whatever stands for them.
    """
    try:
        return _load(path)
    except pickle.UnpicklingError:
        names = foreign_names(path)
        if not names:
            raise
        with torch.serialization.safe_globals([(_stand_in(n), n) for n in names]):
            return _load(path)


def foreign_names(path: Path) -> list[str]:
    """Return the classes and functions of a pickle that torch does not load."""
    # Since torch 2.6.
    find = getattr(torch.serialization, "get_unsafe_globals_in_checkpoint", None)
    if find is None:
        return []
    try:
        return sorted(find(path))
    except Exception:  # torch's format of before 2020, or a damaged file
        return _old_foreign_names(path)


def _load(path: Path) -> object:
    # Opened here, since torch takes a path's suffix for its format.
    with path.open("rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)


def _stand_in(name: str) -> Any:
    if _MAPPINGS.search(name):
        return _InertDict
    return _InertList if _SEQUENCES.search(name) else _Inert


def _old_foreign_names(path: Path) -> list[str]:
    with path.open("rb") as file:
        try:
            names = {*_old_names(file)}
        except Exception:  # no pickle
            return []
    return sorted(name for name in names if not _TENSOR_PARTS.fullmatch(name))


def _old_names(file: IO[bytes]) -> Iterator[str]:
    """Yield the names in the pickles one after the other, without loading them."""
    for _ in range(_MAX_PICKLES):
        for opcode, argument, _position in pickletools.genops(file):
            if opcode.name == "GLOBAL":
                yield str(argument).replace(" ", ".", 1)
