"""What all estimators ask of their checkpoint and of X, and tell scikit-learn."""

import os
from collections.abc import Iterable
from typing import Any

from sklearn.utils import Tags

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.exceptions import CheckpointError, ConfigError, ModalityError
from brainfeat.subjects.table import SubjectTable, as_subjects

__all__ = [
    "check_checkpoint_name",
    "check_modalities",
    "check_weights",
    "read_subjects",
    "tag_images",
]


def check_checkpoint_name(checkpoint: object) -> None:
    """Check that a parameter may name a checkpoint.

    Parameters
    ----------
    checkpoint : object
        To be a name or a folder.

    Raises
    ------
    ConfigError
        If it is something else.
    """
    if not isinstance(checkpoint, str | os.PathLike):
        raise ConfigError(
            f"checkpoint: expected a name or a folder, got {type(checkpoint).__name__}."
        )


def check_weights(name: object, fitted: str, found: str) -> None:
    """Check that weights are still those that were fitted.

    Parameters
    ----------
    name : str or path-like
        The checkpoint.
    fitted, found : str
        Fingerprints.

    Raises
    ------
    CheckpointError
        If they differ.
    """
    if found != fitted:
        raise CheckpointError(
            f"{name}: expected the weights that were fitted ({fitted[:12]}), "
            f"got others ({found[:12]}); fit again."
        )


def check_modalities(
    estimator: object, fitted: tuple[str, ...], found: Iterable[str]
) -> None:
    """Check that an estimator saw all modalities when it was fitted.

    Parameters
    ----------
    estimator : object
        Named in the error.
    fitted : tuple of str
        What it was fitted on.
    found : iterable of str
        Modalities that subjects have now.

    Raises
    ------
    ModalityError
        If there are others.
    """
    given = tuple(found)
    if not set(given) <= set(fitted):
        raise ModalityError(
            f"{type(estimator).__name__} was fitted on modalities {fitted}, "
            f"got {given}."
        )


def read_subjects(X: Any, checkpoint: Checkpoint, modality: str | None) -> SubjectTable:
    """Bring X to one row a subject, as a checkpoint allows.

    Parameters
    ----------
    X : list, Series, DataFrame, path-like or image
        As for the estimators' `fit`.
    checkpoint : Checkpoint
        Says which modalities there are, and whether they may be missing.
    modality : str or None
        Modality of images that come without one.

    Returns
    -------
    SubjectTable
        No image is read yet.
    """
    config = checkpoint.config
    return as_subjects(
        X,
        modality=modality,
        modalities=config.encoder.modalities,
        allow_missing=config.missing_modalities,
    )


def tag_images(tags: Tags) -> Tags:
    """Say that X holds images, of which some may be missing.

    Parameters
    ----------
    tags : Tags
        Changed in place.

    Returns
    -------
    Tags
        The same.
    """
    tags.input_tags.two_d_array = False
    tags.input_tags.string = True  # paths
    tags.input_tags.allow_nan = True  # a modality that a subject lacks
    return tags
