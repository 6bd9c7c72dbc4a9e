"""Standard deviations that features can be divided by."""

__all__ = ["ROUNDING", "find_spread"]

from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-10
"""Share of a value that sums of many like it may be off by, and no less than that."""


def find_spread(rows: NDArray[Any], axis: int = 0) -> NDArray[np.float64]:
    """Compute standard deviations, and 1 for what is constant but for rounding.

    Divided by their rounding errors, constants would be as loud as any feature.

    Parameters
    ----------
    rows : ndarray
        Features.
    axis : int
        That of the rows; kept, with a length of 1.

    Returns
    -------
    ndarray
        Positive numbers.
    """
    deviations = rows.std(axis=axis, keepdims=True)
    sizes = np.abs(rows).max(axis=axis, keepdims=True)
    return np.where(deviations > ROUNDING * sizes, deviations, 1.0)
