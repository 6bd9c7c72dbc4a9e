"""Whether the site goes with the label."""

__all__ = ["associate_sites"]

import numpy as np

from brainfeat.evaluation.acquisition import CONFOUNDED_P, describe_levels
from brainfeat.evaluation.labelled import LabelledFeatures
from brainfeat.evaluation.leakage import association


def associate_sites(data: LabelledFeatures) -> tuple[float | None, list[str]]:
    """Cramer's V of site and label, and a finding if they are confounded."""
    if data.site is None or len(data.site_names) < 2:
        return None, []
    # Repeat scans of a subject at one site are not independent.
    levels = data.task.levels(data.labels)
    visits = np.column_stack([data.groups, data.site, levels])
    _, rows = np.unique(visits, axis=0, return_index=True)
    v, p_value = association(levels[rows], data.site[rows])
    findings = []
    if p_value < CONFOUNDED_P:
        described = describe_levels(
            data.site[rows], data.site_names, data.take(rows), "site"
        )
        findings.append(
            f"site and label are confounded (Cramer's V {v:.2f}, p = {p_value:.1g})"
            f"{described}."
        )
    return v, findings
