"""Embeddings on disk, so that cross-validation encodes each subject once."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from brainfeat.exceptions import ConfigError, brief_reason
from brainfeat.io.paths import expand_home
from brainfeat.io.vector_store import StoredVector, VectorStore

__all__ = ["EmbeddingCache", "embedding_key"]

_LOGGER = logging.getLogger(__name__)


class EmbeddingCache:
    """Embeddings in a folder that several processes may share, by `embedding_key`."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        # Absolute, since workers may have another current folder.
        self._store = VectorStore(expand_home(folder).absolute())

    @classmethod
    def from_memory(cls, memory: Any) -> Self | None:
        """Open the cache of ``memory=``: None, a folder or a joblib.Memory."""
        # Recognised by its attribute: dask and diskcache have similar classes.
        location = getattr(memory, "location", memory)
        if location is None:
            return None
        if not isinstance(location, str | os.PathLike):
            raise ConfigError(
                "memory: expected None, a folder or a joblib.Memory, "
                f"got {type(memory).__name__}."
            )
        return cls(Path(location) / "brainfeat")

    def load(self, key: str, n_features: int) -> StoredVector | None:
        """Read an embedding and its note; None if there is none, or it is damaged."""
        stored = self._store.load(key)
        if stored is None:
            return None
        vector = stored.vector
        if vector.shape != (n_features,) or vector.dtype != np.float32:
            return None
        return stored if np.isfinite(vector).all() else None

    def store(self, key: str, vector: NDArray[np.float32], note: str = "") -> None:
        """Store an embedding; a full or read-only disk only causes a warning."""
        try:
            self._store.save(key, vector, note)
        except OSError as error:
            reason = brief_reason(error)
            _LOGGER.warning("%s: embedding not kept (%s)", self._store.folder, reason)


def embedding_key(parts: Mapping[str, Any]) -> str:
    """Hash everything that an embedding depends on, as JSON values in any order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
