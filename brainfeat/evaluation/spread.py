"""Standard deviations that features can be divided by."""

__all__ = ["ROUNDING", "find_spread"]

from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-10
"""Share of a value that sums of many like it may be off by, and no less than that."""


def find_spread(rows: NDArray[Any], axis: int = 0) -> NDArray[np.float64]:
    """Compute standard deviations, and 1 for what is constant but for rounding."""
    deviations = rows.std(axis=axis, keepdims=True)
    sizes = np.abs(rows).max(axis=axis, keepdims=True)
    return np.where(deviations > ROUNDING * sizes, deviations, 1.0)
