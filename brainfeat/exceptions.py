"""Errors and warnings of brainfeat; each error is also the fitting builtin."""

__all__ = [
    "BrainfeatError",
    "CheckpointError",
    "ConfigError",
    "ConfoundingWarning",
    "GeometryError",
    "InputError",
    "LeakageWarning",
    "MissingDependencyError",
    "ModalityError",
    "QualityError",
    "TableError",
    "TrainingError",
    "UntrainedCheckpointWarning",
    "VolumeError",
    "VolumeNotFoundError",
    "WorkerError",
    "brief_reason",
    "import_optional",
    "list_names",
]

from collections.abc import Iterable
from importlib import import_module
from typing import Any

_N_LISTED = 10


def brief_reason(error: Exception) -> str:
    """Return the message of another library's or the system's error, in one line.

    The error number and the file name that the system adds are left out.

    >>> brief_reason(FileNotFoundError(2, "No such file or directory", "a.tsv"))
    'No such file or directory'
    """
    return getattr(error, "strerror", None) or " ".join(str(error).split())


def list_names(names: Iterable[str]) -> str:
    """Join names for a message: ten at most, and the number of the others.

    >>> list_names("abc"), list_names(map(str, range(12)))
    ('a, b, c', '0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more')
    """
    names = list(names)
    n_others = len(names) - _N_LISTED
    more = f" and {n_others} more" if n_others > 0 else ""
    return ", ".join(names[:_N_LISTED]) + more


def import_optional(module: str, message: str) -> Any:
    """Import a module of another package, or raise MissingDependencyError."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependencyError(message) from error


class BrainfeatError(Exception):
    """Base of every error that brainfeat raises."""


class VolumeError(BrainfeatError, ValueError):
    """A file or image does not hold one usable 3D volume."""


class VolumeNotFoundError(VolumeError, FileNotFoundError):
    """There is no image at a path."""


class GeometryError(BrainfeatError, ValueError):
    """A shape or affine is invalid."""


class ModalityError(BrainfeatError, ValueError):
    """A modality is unknown, missing, or not supported by the checkpoint."""


class InputError(BrainfeatError, ValueError):
    """``X``, a manifest or a folder cannot be read."""


class ConfigError(BrainfeatError, ValueError):
    """A configuration has an unknown key or an invalid value."""


class CheckpointError(BrainfeatError, ValueError):
    """Weights are unknown, damaged, or of another model."""


class QualityError(BrainfeatError, ValueError):
    """A brain may be misplaced or not whole, and doubts are errors."""


class TableError(BrainfeatError, ValueError):
    """An embedding table is unreadable, or of another encoder."""


class TrainingError(BrainfeatError, RuntimeError):
    """A training run cannot continue."""


class WorkerError(BrainfeatError, RuntimeError):
    """A worker process died."""


class MissingDependencyError(BrainfeatError, ImportError):
    """An optional package is not installed."""


class UntrainedCheckpointWarning(UserWarning):
    """The encoder has random weights."""


class LeakageWarning(UserWarning):
    """A subject or scan is on both sides of a split."""


class ConfoundingWarning(UserWarning):
    """Site or confounds predict the label, and may explain a score."""
