"""Errors and warnings of brainfeat; each error is also the fitting builtin.

::

    BrainfeatError
    ├── VolumeError (ValueError)              an image that is not one usable 3D volume
    │   └── VolumeNotFoundError (FileNotFoundError)
    ├── GeometryError (ValueError)            shape or affine that places nothing
    ├── ModalityError (ValueError)            unknown, missing or not trained for
    ├── InputError (ValueError)               X, manifest or folder of the wrong form
    ├── ConfigError (ValueError)              configuration value or key
    ├── CheckpointError (ValueError)          weights unknown, damaged or foreign
    ├── TableError (ValueError)               table that cannot be read or joined
    ├── TrainingError (RuntimeError)          a run that cannot go on
    ├── WorkerError (RuntimeError)            another process died at its work
    └── MissingDependencyError (ImportError)  an extra that is not installed

    UserWarning
    ├── UntrainedCheckpointWarning            the weights have learnt nothing
    ├── LeakageWarning                        a subject on both sides of a split
    └── ConfoundingWarning                    the site gives the label away

`brief_reason` says in one line why any other error was raised.
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
    """Say why an error was raised, as a part of our own message.

    Parameters
    ----------
    error : Exception
        Of another library or the system.

    Returns
    -------
    str
        One line, without the number and the file that the system adds.

    Examples
    --------
    >>> brief_reason(FileNotFoundError(2, "No such file or directory", "a.tsv"))
    'No such file or directory'
    """
    return getattr(error, "strerror", None) or " ".join(str(error).split())


class BrainfeatError(Exception):
    """Base of every error that brainfeat raises on purpose."""


class VolumeError(BrainfeatError, ValueError):
    """A file or image does not hold one usable 3D volume."""


class VolumeNotFoundError(VolumeError, FileNotFoundError):
    """No image at the path that was given."""


class GeometryError(BrainfeatError, ValueError):
    """A shape or affine that does not place voxels in the scanner."""


class ModalityError(BrainfeatError, ValueError):
    """A modality is unknown, missing, or was not trained for."""


class InputError(BrainfeatError, ValueError):
    """``X``, a manifest or a folder does not have a form that can be read."""


class ConfigError(BrainfeatError, ValueError):
    """A configuration holds an unknown key or an impossible value."""


class CheckpointError(BrainfeatError, ValueError):
    """Weights are unknown, damaged, or belong to another model."""


class TableError(BrainfeatError, ValueError):
    """An embedding table is unreadable, or comes from another encoder."""


class TrainingError(BrainfeatError, RuntimeError):
    """A training run cannot go on."""


class WorkerError(BrainfeatError, RuntimeError):
    """A process that worked for this one was lost."""


class MissingDependencyError(BrainfeatError, ImportError):
    """An optional package is needed and not installed."""


class UntrainedCheckpointWarning(UserWarning):
    """The encoder has random weights: its features mean nothing yet."""


class LeakageWarning(UserWarning):
    """The same subject or scan is on both sides of a split."""


class ConfoundingWarning(UserWarning):
    """Site or confounds give the label away, so that a score may be theirs."""
