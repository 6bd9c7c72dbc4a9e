"""Decision function of the steps after an embedder, and its gradient."""

__all__ = ["decision_function", "decision_gradient"]

from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainfeat.exceptions import ConfigError

Floats = NDArray[np.float64]

_STEP = 1e-2  # of a feature's standard deviation
_LEAST = 1e-6  # probabilities are clipped, so that log-odds are finite


def decision_function(head: Any, rows: Floats) -> Floats:
    """Return the head's decision function, else its log-odds, else its prediction."""
    if hasattr(head, "decision_function"):
        values = np.asarray(head.decision_function(rows), dtype=np.float64)
    elif hasattr(head, "predict_proba"):
        probabilities = np.asarray(head.predict_proba(rows), dtype=np.float64)
        probabilities = probabilities.clip(_LEAST, 1.0 - _LEAST)
        values = np.log(probabilities[:, 1:]) - np.log(probabilities[:, :1])
        values = values[:, 0] if probabilities.shape[1] == 2 else probabilities
    else:
        values = np.asarray(head.predict(rows), dtype=np.float64)
    if values.ndim != 1:
        raise ConfigError(
            "pipeline: expected one decision a subject, as for two classes, got "
            f"{values.shape[1]}."
        )
    return values


def decision_gradient(head: Any, reference: Floats, rows: Floats) -> Floats:
    """Differentiate the decision function by the features, at each row."""
    # Central differences, which are exact for a linear head; steps are relative to the
    # standard deviations of the reference rows.
    scale = reference.std(axis=0)
    steps = np.diag(_STEP * np.where(scale > 0, scale, 1.0))
    differences = [
        decision_function(head, row + steps) - decision_function(head, row - steps)
        for row in rows
    ]
    return np.asarray(np.stack(differences) / (2.0 * steps.diagonal()))
