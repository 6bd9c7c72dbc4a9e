"""Checked features with labels, subjects, sites and confounds."""

__all__ = ["LabelledFeatures", "as_features"]

import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainfeat.evaluation.columns import Encoding, as_codes, check_order
from brainfeat.evaluation.confounds import ConfoundRegressor
from brainfeat.evaluation.leakage import duplicate_rows
from brainfeat.evaluation.tasks import Kind, Labels, Task, read_labels
from brainfeat.exceptions import InputError, LeakageWarning

Rows = NDArray[np.intp]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """Checked inputs of `evaluate_probe`, one row per scan."""

    features: Floats  # n_rows n_features
    labels: Labels  # n_rows: whether of the second of two classes; codes; or numbers
    task: Task
    groups: Rows  # n_rows: codes of the subjects
    site: Rows | None  # n_rows: indices into site_names
    site_names: tuple[str, ...]
    confounds: Floats  # n_rows n_confounds: with the sites, one-hot; maybe none
    findings: list[str] = field(default_factory=list)

    @classmethod
    def check(
        cls,
        X: Any,
        y: Any,
        groups: Any,
        site: Any,
        confounds: Any,
        pos_label: Any = None,
        *,
        kind: Kind = "binary",
    ) -> "LabelledFeatures":
        """Check the arguments of `evaluate_probe`, and merge duplicated subjects."""
        features = as_features(X)
        check_order(X, y=y, groups=groups, site=site, confounds=confounds)
        n_rows = len(features)
        labels, task = read_labels(y, n_rows, kind=kind, pos_label=pos_label)
        if groups is None:
            subject = np.arange(n_rows)
        else:
            subject, _ = as_codes("groups", groups, n_rows)
        findings: list[str] = []
        subject, n_duplicates = duplicate_rows(features, subject)
        if n_duplicates:
            findings.append(
                f"{n_duplicates} rows have the same features as a row of another "
                "subject: these subjects are treated as one in all splits."
            )
            warnings.warn(findings[-1], LeakageWarning, stacklevel=3)
        codes, names = (None, ()) if site is None else as_codes("site", site, n_rows)
        encoded = _encode_confounds(confounds, codes, names, n_rows)
        known = (subject, codes, names, encoded)
        return cls(features, labels, task, *known, findings)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, of two the positive one last; none for numbers."""
        return self.task.classes

    def take(self, rows: NDArray[np.intp | np.bool_]) -> "LabelledFeatures":
        """Return some of the rows, without sites and confounds."""
        features, labels = self.features[rows], self.labels[rows]
        return replace(
            self,
            features=features,
            labels=labels,
            groups=self.groups[rows],
            site=None,
            site_names=(),
            confounds=np.empty((len(labels), 0)),
        )

    def adjust(self, train: Rows) -> Floats:
        """Regress confounds and sites out of all rows, fitted on the training rows."""
        table = np.hstack([self.features, self.confounds])
        columns = list(range(self.features.shape[1], table.shape[1]))
        return ConfoundRegressor(columns).fit(table[train]).transform(table)


def as_features(X: Any) -> Floats:
    """Convert to finite features of shape (n_rows, n_features), or raise."""
    try:
        features = np.asarray(X, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            "X: expected features of shape (n_rows, n_features), such as "
            f"BrainFoundEmbedder gives for images ({error})."
        ) from error
    if features.ndim != 2 or not np.isfinite(features).all():
        raise InputError(
            "X: expected finite features of shape (n_rows, n_features), got shape "
            f"{features.shape}{'' if features.ndim != 2 else ' with NaN or infinity'}."
        )
    return features


def _encode_confounds(
    confounds: Any, site: Rows | None, names: tuple[str, ...], n_rows: int
) -> Floats:
    parts = []
    if confounds is not None:
        # Per column: a mixed array would convert numbers to text.
        table = pd.DataFrame(confounds)
        if len(table) != n_rows or table.isna().to_numpy().any():
            raise InputError(
                f"confounds: expected a value for each of {n_rows} rows, got "
                f"{len(table)} rows, {int(table.isna().any(axis=1).sum())} of them "
                "with missing values."
            )
        # The set of levels does not depend on labels, so all rows may define it.
        parts.append(Encoding.learn(table).apply(table))
    if site is not None:
        parts.append((site[:, None] == np.arange(len(names))).astype(np.float64))
    return np.hstack(parts) if parts else np.empty((n_rows, 0))
