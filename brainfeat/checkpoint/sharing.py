"""Checkpoints and encoders that clones, folds and threads of a process share."""

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

import torch

from brainfeat.checkpoint.checkpoint import Checkpoint, locate_checkpoint
from brainfeat.exceptions import CheckpointError, ConfigError
from brainfeat.models.encoder import SlabEncoder
from brainfeat.models.packed_linear import pack_linear_layers
from brainfeat.preprocessing.preprocessor import Preprocessor

__all__ = ["shared_checkpoint", "shared_encoder"]

T = TypeVar("T")

# Two, so that a comparison of checkpoints does not load them in turns, and a search
# over many fits in memory.
_N_KEPT = 2


class _Shelf(Generic[T]):
    """The values that were used last, made when they are first asked for."""

    def __init__(self) -> None:
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        with self._lock:
            if key not in self._values:
                self._values[key] = make()
            self._values.move_to_end(key)
            while len(self._values) > _N_KEPT:
                self._values.popitem(last=False)
            return self._values[key]


_CHECKPOINTS: _Shelf[Checkpoint] = _Shelf()
_ENCODERS: _Shelf[SlabEncoder] = _Shelf()


def shared_checkpoint(source: str | os.PathLike[str]) -> Checkpoint:
    """Load a checkpoint, or take the one that was loaded from the same files.

    Parameters
    ----------
    source : str or path-like
        As for `Checkpoint.load`.

    Returns
    -------
    Checkpoint
        Not to be changed.

    Raises
    ------
    CheckpointError
        If there is no such checkpoint, or it is damaged.
    """
    path = locate_checkpoint(source)
    return _CHECKPOINTS.get(_signature(path), lambda: _load(source))


def shared_encoder(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype = torch.float32
) -> SlabEncoder:
    """Build the encoder of a checkpoint, or take the one that was built before.

    Parameters
    ----------
    checkpoint : Checkpoint
        Weights and configuration.
    device : torch.device
        Where the encoder runs.
    dtype : torch.dtype
        What its weights are rounded to. In bfloat16 on a CPU it gives no gradients.

    Returns
    -------
    SlabEncoder
        In evaluation mode; not to be trained.
    """
    key = (checkpoint.fingerprint, str(device), dtype)

    def build() -> SlabEncoder:
        # Weights that are made in inference mode would never give gradients.
        with torch.inference_mode(mode=False):
            encoder = checkpoint.build_encoder().to(device, dtype)
            pack_linear_layers(encoder)
            return encoder

    return _ENCODERS.get(key, build)


def _load(source: str | os.PathLike[str]) -> Checkpoint:
    checkpoint = Checkpoint.load(source)
    try:
        # Here, since a checkpoint can be read without what preprocesses images.
        Preprocessor.from_dict(checkpoint.config.preprocessing)
    except ConfigError as error:
        raise CheckpointError(f"{os.fspath(source)}: {error}") from error
    return checkpoint


def _signature(path: Path) -> tuple[Hashable, ...]:
    """Return what changes when a file of the checkpoint is replaced or written to."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    # Editors lock a file by a link to nothing beside it.
    states = [(file.name, file.stat()) for file in files if file.exists()]
    return (
        path.resolve(),
        *((n, s.st_ino, s.st_size, s.st_mtime_ns) for n, s in states),
    )
