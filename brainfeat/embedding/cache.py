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
from brainfeat.io.atomic import atomic_write
from brainfeat.io.paths import expand_home

__all__ = ["EmbeddingCache", "embedding_key"]

_LOGGER = logging.getLogger(__name__)


class EmbeddingCache:
    """A folder with one small file an embedding, named by what made it.

    Several processes may share a folder: files appear whole, and two writers of
    one key write the same values.

    Parameters
    ----------
    folder : path-like
        Created when the first embedding is stored.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        # Whole, since workers may be in other folders.
        self._folder = expand_home(folder).absolute()

    @classmethod
    def from_memory(cls, memory: Any) -> Self | None:
        """Open the cache that a scikit-learn style ``memory=`` asks for.

        Parameters
        ----------
        memory : None, path-like or joblib.Memory
            Folder, or a memory that names one.

        Returns
        -------
        EmbeddingCache or None
            None if nothing is to be kept.

        Raises
        ------
        ConfigError
            If ``memory`` is something else.
        """
        # Recognised by its attribute: dask and diskcache offer the same face.
        location = getattr(memory, "location", memory)
        if location is None:
            return None
        if not isinstance(location, str | os.PathLike):
            raise ConfigError(
                "memory: expected None, a folder or a joblib.Memory, "
                f"got {type(memory).__name__}."
            )
        return cls(Path(location) / "brainfeat")

    def load(self, key: str, n_features: int) -> NDArray[np.float32] | None:
        """Read an embedding.

        Parameters
        ----------
        key : str
            From :func:`embedding_key`.
        n_features : int
            Length that the embedding must have.

        Returns
        -------
        ndarray of float32 of shape (n_features,) or None
            None if it is not there, or its file is damaged.
        """
        try:
            with self._path(key).open("rb") as file:
                vector = np.lib.format.read_array(file, allow_pickle=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, EOFError) as error:
            _LOGGER.warning(
                "%s: damaged, computed again (%s)", self._path(key), brief_reason(error)
            )
            return None
        if vector.shape != (n_features,) or vector.dtype != np.float32:
            return None
        return vector if np.isfinite(vector).all() else None

    def store(self, key: str, vector: NDArray[np.float32]) -> None:
        """Keep an embedding; a full or read-only disk costs a warning only.

        Parameters
        ----------
        key : str
            From :func:`embedding_key`.
        vector : ndarray of float32 of shape (n_features,)
            The embedding.
        """
        try:
            with atomic_write(self._path(key)) as partial, partial.open("wb") as file:
                np.save(file, vector, allow_pickle=False)
        except OSError as error:
            _LOGGER.warning(
                "%s: embedding not kept (%s)", self._folder, brief_reason(error)
            )

    def _path(self, key: str) -> Path:
        # Two levels, since some file systems are slow with many files in a folder.
        return self._folder / key[:2] / f"{key}.npy"


def embedding_key(parts: Mapping[str, Any]) -> str:
    """Name an embedding by everything that it depends on.

    Parameters
    ----------
    parts : mapping of str to JSON values
        Fingerprints of the inputs, of the checkpoint and of every option.

    Returns
    -------
    str
        SHA-256 in hexadecimal.

    Examples
    --------
    >>> key = embedding_key({"checkpoint": "c0ffee", "pooling": "mean"})
    >>> key == embedding_key({"pooling": "mean", "checkpoint": "c0ffee"})
    True
    """
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
