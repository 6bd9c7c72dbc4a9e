"""Standard deviations that are safe to divide by."""

__all__ = ["ROUNDING", "standard_deviation"]

from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-10
"""Upper limit of the relative rounding error of sums over many values."""


def standard_deviation(rows: NDArray[Any], axis: int = 0) -> NDArray[np.float64]:
    """Compute standard deviations along a kept axis; 1 for constants."""
    # Divided by its rounding error, a constant would become as large as a feature.
    deviations = rows.std(axis=axis, keepdims=True)
    sizes = np.abs(rows).max(axis=axis, keepdims=True)
    return np.where(deviations > ROUNDING * sizes, deviations, 1.0)
