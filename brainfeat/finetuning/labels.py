"""``y`` of the estimators: classes or numbers, and the people of its rows."""

__all__ = ["read_classes", "read_groups", "read_numbers"]

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from brainfeat.exceptions import ConfigError, InputError
from brainfeat.finetuning.targets import ClassTargets, NumberTargets


def read_classes(
    y: Any, n_rows: int, class_weight: Any
) -> tuple[NDArray[Any], ClassTargets]:
    """Return the sorted classes, and the codes and weights of the rows."""
    labels = _read_column(y, n_rows)
    check_classification_targets(labels)
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise InputError(
            f"y: expected at least two classes, got one class, {str(classes[0])!r}."
        )
    weights = _weigh(class_weight, classes, labels)[codes]
    return classes, ClassTargets(codes, weights / weights.mean(), len(classes))


def read_numbers(y: Any, n_rows: int) -> tuple[float, float, NumberTargets]:
    """Return mean and standard deviation, and the standardised numbers."""
    values = _read_column(y, n_rows)
    try:
        numbers = values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"y: expected numbers, got {str(values[0])!r}.") from error
    if not np.isfinite(numbers).all():
        raise InputError("y: expected finite numbers, got infinity.")
    mean, scale = float(numbers.mean()), float(numbers.std())
    scale = scale if scale > 0 else 1.0
    return mean, scale, NumberTargets((numbers - mean) / scale)


def read_groups(groups: Any, known: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the number of each row's person: given, or known by name or file."""
    if groups is None:
        return known.astype(np.intp)
    values = np.asarray(groups)
    if values.shape != known.shape:
        raise InputError(
            f"groups: expected one for each of {len(known)} rows, got shape "
            f"{values.shape}."
        )
    if pd.isna(values).any():
        n_missing = int(pd.isna(values).sum())
        raise InputError(f"groups: {n_missing} of {len(known)} are missing.")
    return np.unique(values, return_inverse=True)[1].astype(np.intp)


def _read_column(y: Any, n_rows: int) -> NDArray[Any]:
    if y is None:
        raise InputError(
            "y: expected a label for each subject; requires y to be passed, "
            "but the target y is None."
        )
    values = column_or_1d(y, warn=True)
    if len(values) != n_rows:
        raise InputError(
            f"y: expected a label for each of {n_rows} subjects, got {len(values)}."
        )
    n_missing = int(pd.isna(values).sum())
    if n_missing:
        raise InputError(
            f"y has {n_missing} missing values (NaN) of {n_rows}: drop those rows."
        )
    return np.asarray(values)


def _weigh(
    class_weight: Any, classes: NDArray[Any], labels: NDArray[Any]
) -> NDArray[np.float64]:
    allowed = class_weight is None or class_weight == "balanced"
    if not allowed and not isinstance(class_weight, Mapping):
        raise ConfigError(
            "class_weight: expected None, 'balanced' or a dict of classes, got "
            f"{class_weight!r}."
        )
    try:
        return np.asarray(
            compute_class_weight(class_weight, classes=classes, y=labels), np.float64
        )
    except ValueError as error:
        raise ConfigError(f"class_weight: {error}") from error
