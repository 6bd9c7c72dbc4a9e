"""Errors and warnings of brainfeat; each error is also the fitting builtin.

::

    BrainfeatError
    ├── VolumeError (ValueError)
    │   └── VolumeNotFoundError (FileNotFoundError)
    ├── GeometryError (ValueError)
    ├── ModalityError (ValueError)
    ├── InputError (ValueError)
    ├── ConfigError (ValueError)
    ├── CheckpointError (ValueError)
    ├── TableError (ValueError)
    ├── TrainingError (RuntimeError)
    ├── WorkerError (RuntimeError)
    └── MissingDependencyError (ImportError)

    UserWarning
    ├── UntrainedCheckpointWarning
    ├── LeakageWarning
    └── ConfoundingWarning

`brief_reason` gives the message of any other error.
"""

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
    "TableError",
    "TrainingError",
    "UntrainedCheckpointWarning",
    "VolumeError",
    "VolumeNotFoundError",
    "WorkerError",
    "brief_reason",
]


def brief_reason(error: Exception) -> str:
    """Return the message of another library's or the system's error, in one line.

    The error number and the file name that the system adds are left out.

    Examples
    --------
    >>> brief_reason(FileNotFoundError(2, "No such file or directory", "a.tsv"))
    'No such file or directory'
    """
    return getattr(error, "strerror", None) or " ".join(str(error).split())


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
