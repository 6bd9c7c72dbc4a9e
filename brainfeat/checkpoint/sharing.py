"""Checkpoints and encoders shared by the clones, folds and threads of a process."""

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

import torch

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.known import find_known
from brainfeat.checkpoint.locate import locate_checkpoint
from brainfeat.exceptions import CheckpointError, ConfigError
from brainfeat.models.packed_linear import pack_linear_layers
from brainfeat.models.protocol import Encoder
from brainfeat.preprocessing.settings import preprocessing_from_dict

__all__ = ["check_fingerprint", "shared_checkpoint", "shared_encoder"]

T = TypeVar("T")

# Two, so that comparing two checkpoints loads each once, and a search over many fits
# in memory.
_MAX_ITEMS = 2


class _LRUCache(Generic[T]):
    """The values used last, made on first use by one thread at a time."""

    def __init__(self) -> None:
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        with self._lock:
            if key not in self._values:
                self._values[key] = make()
            self._values.move_to_end(key)
            while len(self._values) > _MAX_ITEMS:
                self._values.popitem(last=False)
            return self._values[key]


_CHECKPOINTS: _LRUCache[Checkpoint] = _LRUCache()
_ENCODERS: _LRUCache[Encoder] = _LRUCache()


def shared_checkpoint(source: str | os.PathLike[str]) -> Checkpoint:
    """Load a checkpoint, or return the one loaded before; it must not be changed."""
    if not isinstance(source, str | os.PathLike):
        raise ConfigError(
            f"checkpoint: expected a name or a folder, got {type(source).__name__}."
        )
    # A known encoder's name also says how a file is to be read.
    known = find_known(os.fspath(source))
    key = known and known.name, *_signature(locate_checkpoint(source))
    return _CHECKPOINTS.get(key, lambda: _load(source))


def check_fingerprint(source: object, fitted: str, fingerprint: str) -> None:
    """Check that the weights of a checkpoint are still those that were fitted."""
    if fingerprint != fitted:
        raise CheckpointError(
            f"{source}: expected the weights that were fitted ({fitted[:12]}), "
            f"got others ({fingerprint[:12]}); fit again."
        )


def shared_encoder(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype = torch.float32
) -> Encoder:
    """Build an encoder in evaluation mode, or return the one built before.

    It must not be trained. In bfloat16 on a CPU it gives no gradients.
    """
    key = (checkpoint.fingerprint, str(device), dtype)

    def build() -> Encoder:
        # Weights created in inference mode never give gradients.
        with torch.inference_mode(mode=False):
            encoder = checkpoint.build_encoder().to(device, dtype)
            pack_linear_layers(encoder)
            return encoder

    return _ENCODERS.get(key, build)


def _load(source: str | os.PathLike[str]) -> Checkpoint:
    checkpoint = Checkpoint.load(source)
    try:
        # Checked here, since Checkpoint itself must not import image libraries.
        preprocessing_from_dict(checkpoint.config.preprocessing)
    except ConfigError as error:
        raise CheckpointError(f"{os.fspath(source)}: {error}") from error
    return checkpoint


def _signature(path: Path) -> tuple[Hashable, ...]:
    """Return what changes when a file of the checkpoint is replaced or written to."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    # Editors lock a file by a dangling link beside it.
    states = [(file.name, file.stat()) for file in files if file.exists()]
    of_files = ((n, s.st_ino, s.st_size, s.st_mtime_ns) for n, s in states)
    return path.resolve(), *of_files
