"""Missing modalities and slice thicknesses that go with label, site or session."""

__all__ = [
    "CONFOUNDED_P",
    "Acquisition",
    "describe_levels",
    "describe_thicknesses",
    "largest_common_subset",
    "thickness_names",
]

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainfeat.evaluation.columns import Codes, as_codes, check_order
from brainfeat.evaluation.labelled import LabelledFeatures
from brainfeat.evaluation.leakage import association
from brainfeat.volume import slice_thickness

Rows = NDArray[np.intp]

CONFOUNDED_P = 0.01
_MIXED = 1.2  # ratio of slice thicknesses that is reported
_UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class Acquisition:
    """How each row was acquired: None for what is not known."""

    modalities: Codes | None
    session: Codes | None
    thickness: Codes | None

    @classmethod
    def check(
        cls, X: Any, n_rows: int, *, modalities: Any, session: Any, voxel_mm: Any
    ) -> "Acquisition":
        """Check the arguments of `evaluate_probe`."""
        check_order(X, modalities=modalities, session=session, voxel_mm=voxel_mm)
        names = None if voxel_mm is None else thickness_names(voxel_mm)
        return cls(
            None if modalities is None else as_codes("modalities", modalities, n_rows),
            None if session is None else _fill(session, n_rows),
            None if names is None else as_codes("voxel_mm", names, n_rows),
        )

    def find_modality_associations(self, data: LabelledFeatures) -> list[str]:
        """Say what the modalities that a row has go with."""
        if self.modalities is None:
            return []
        found = [_with_label("which modalities a row has", self.modalities, data)]
        site = None if data.site is None else (data.site, data.site_names)
        for name, other in (("site", site), ("session", self.session)):
            if other is None:
                continue
            v, p_value = _associate(self.modalities[0], other[0], data.groups)
            if p_value < CONFOUNDED_P:
                found.append(
                    f"which modalities a row has goes with the {name} (Cramer's V "
                    f"{v:.2f}, p = {p_value:.1g}), and embeddings show it."
                )
        return list(filter(None, found))

    def find_thickness_associations(self, data: LabelledFeatures) -> list[str]:
        """Say whether the slice thickness goes with the label."""
        if self.thickness is None:
            return []
        codes, names = self.thickness
        known = codes != (names.index(_UNKNOWN) if _UNKNOWN in names else -1)
        if not known.any():
            return []
        column = as_codes("", np.array(names)[codes[known]], int(known.sum()))
        found = _with_label("the slice thickness", column, data.take(known))
        return [found] if found else []


def largest_common_subset(modalities: Codes, data: LabelledFeatures) -> Rows | None:
    """Return rows of the same modalities with most of the rarer class, if two."""
    best, best_size = None, 1
    strata = data.task.strata(data.labels)
    for code in range(len(modalities[1])):
        rows = np.flatnonzero(modalities[0] == code)
        labels, groups = strata[rows], data.groups[rows]
        size = min(len(np.unique(groups[labels == code])) for code in set(strata))
        if size > best_size:
            best, best_size = rows, size
    return best


def describe_levels(
    codes: Rows, names: tuple[str, ...], data: LabelledFeatures, what: str
) -> str:
    """Describe the labels of the rows of each name; nothing for several classes."""
    if len(data.classes) > 2:
        return ""
    means = [float(data.labels[codes == code].mean()) for code in range(len(names))]
    shown = [f"{mean:.0%}" if data.classes else f"{mean:.4g}" for mean in means]
    of_what = f"fraction of {data.classes[1]}" if data.classes else "mean"
    pairs = zip(names, shown, strict=True)
    return f": {of_what} by {what}: {', '.join(map(' '.join, pairs))}"


def thickness_names(voxel_mm: Iterable[Any]) -> list[str]:
    """Name the slice thickness of each row, such as ``1.2 mm``, or ``unknown``."""
    edges = (slice_thickness(str(text)) for text in voxel_mm)
    return [
        _UNKNOWN if edge is None or not np.isfinite(edge) else f"{edge:.1f} mm"
        for edge in edges
    ]


def describe_thicknesses(voxel_mm: Iterable[Any]) -> str | None:
    """Say that rows mix slice thicknesses; None if they are alike or unknown."""
    names = [name for name in thickness_names(voxel_mm) if name != _UNKNOWN]
    edges = {name: float(name.removesuffix(" mm")) for name in names}
    if not edges or max(edges.values()) < _MIXED * min(edges.values()):
        return None
    counts = sorted(Counter(names).items(), key=lambda item: edges[item[0]])
    shown = [f"{name} ({count} rows)" for name, count in counts]
    if len(shown) > 6:
        shown = [*shown[:3], f"{len(shown) - 6} more", *shown[-3:]]
    listed = ", ".join(shown)
    return f"slice thicknesses are mixed: {listed}; embeddings may differ with them."


def _with_label(what: str, column: Codes, data: LabelledFeatures) -> str | None:
    codes, names = column
    v, p_value = _associate(codes, data.task.levels(data.labels), data.groups)
    if p_value >= CONFOUNDED_P:
        return None
    return (
        f"{what} goes with the label (Cramer's V {v:.2f}, p = {p_value:.1g}), and "
        f"embeddings may show it{describe_levels(codes, names, data, 'value')}."
    )


def _associate(
    first: Rows, second: NDArray[np.integer | np.bool_], groups: Rows
) -> tuple[float, float]:
    """Cramer's V and p of two columns, over the different rows of each subject."""
    visits = np.unique(np.column_stack([groups, first, second]), axis=0)
    return association(visits[:, 1], visits[:, 2])


def _fill(values: Any, n_rows: int) -> Codes:
    texts = pd.Series(list(values), dtype=object)
    return as_codes("session", texts.where(texts.notna(), _UNKNOWN), n_rows)
