"""Decisions of whatever follows the embedder, and their slopes."""

__all__ = ["decide", "slope"]

from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainfeat.exceptions import ConfigError

Floats = NDArray[np.float64]

_STEP = 1e-2  # of a feature's standard deviation
_LEAST = 1e-6  # probability that is told from 0 and 1


def decide(head: Any, rows: Floats) -> Floats:
    """Give one number a row, larger for the second class.

    Parameters
    ----------
    head : estimator
        Fitted, for two classes or a number.
    rows : ndarray of shape (n_rows, n_features)
        Embeddings.

    Returns
    -------
    ndarray of shape (n_rows,)
        Decision function, or log-odds, or the predicted number.

    Raises
    ------
    ConfigError
        If there are more classes than two.
    """
    if hasattr(head, "decision_function"):
        values = np.asarray(head.decision_function(rows), dtype=np.float64)
    elif hasattr(head, "predict_proba"):
        shares = np.asarray(head.predict_proba(rows), dtype=np.float64)
        shares = shares.clip(_LEAST, 1.0 - _LEAST)
        values = np.log(shares[:, 1:]) - np.log(shares[:, :1])
        values = values[:, 0] if shares.shape[1] == 2 else shares
    else:
        values = np.asarray(head.predict(rows), dtype=np.float64)
    if values.ndim != 1:
        raise ConfigError(
            "pipeline: expected one decision a subject, as for two classes, got "
            f"{values.shape[1]}."
        )
    return values


def slope(head: Any, reference: Floats, rows: Floats) -> Floats:
    """Differentiate decisions by the features.

    Parameters
    ----------
    head : estimator
        As for `decide`.
    reference : ndarray of shape (n_reference, n_features)
        Rows that tell the scale of each feature.
    rows : ndarray of shape (n_rows, n_features)
        Where to differentiate.

    Returns
    -------
    ndarray of shape (n_rows, n_features)
        Central differences: exact for a linear head.
    """
    scale = reference.std(axis=0)
    steps = np.diag(_STEP * np.where(scale > 0, scale, 1.0))
    found = [decide(head, row + steps) - decide(head, row - steps) for row in rows]
    gradients: Floats = np.stack(found) / (2.0 * steps.diagonal())
    return gradients
