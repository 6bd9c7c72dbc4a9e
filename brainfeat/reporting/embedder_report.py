"""The report of an embedder, as nilearn's estimators give one."""

import os
from dataclasses import asdict
from string import Template
from typing import Any

import numpy as np
import pandas as pd
from nilearn.reporting import HTMLReport

from brainfeat._version import __version__
from brainfeat.embedding.embedder import BrainFoundEmbedder
from brainfeat.evaluation.columns import check_order
from brainfeat.exceptions import InputError
from brainfeat.io.atomic import atomic_write
from brainfeat.models.threads import resolve_n_jobs
from brainfeat.reporting.cohort import Cohort
from brainfeat.reporting.cohort_report import report_body
from brainfeat.reporting.page import render_page
from brainfeat.reporting.report_inputs import look_at_inputs

__all__ = ["EmbedderReport", "report_on_embedder"]

_TITLE = "BrainFoundEmbedder"


class EmbedderReport(HTMLReport):
    """nilearn's report, saved as the page itself.

    nilearn saves reports inside a frame of 800 pixels, which a phone cannot show.
    """

    def save_as_html(self, file_name: str | os.PathLike[str]) -> None:
        """Write the page.

        Parameters
        ----------
        file_name : path-like
            File to write.
        """
        with atomic_write(file_name) as partial:
            partial.write_text(self.get_standalone(), encoding="utf-8")


def report_on_embedder(
    embedder: BrainFoundEmbedder,
    X: Any,
    y: Any = None,
    *,
    groups: Any = None,
    site: Any = None,
    confounds: pd.DataFrame | None = None,
) -> EmbedderReport:
    """Embed subjects and tell of them.

    Parameters
    ----------
    embedder : BrainFoundEmbedder
        Fitted.
    X : list, Series, DataFrame, path-like or image
        Subjects.
    y, groups, site : array-like of shape (n_subjects,), optional
        Classes, who was scanned, and where.
    confounds : DataFrame, optional
        Such as ``age`` and ``sex``, a row a subject.

    Returns
    -------
    EmbedderReport
        Shown in a notebook; ``save_as_html`` writes the page.

    Raises
    ------
    InputError
        If something does not have a value for each subject, or its index tells
        another order than that of ``X``, or ``confounds`` is no table or has a column
        called ``label`` or ``site`` beside ``y`` or ``site``.
    """
    check_order(X, y=y, groups=groups, site=site, confounds=confounds)
    encoder, table = embedder.read_subjects(X)
    n_rows = len(table.rows)
    known = pd.DataFrame(index=range(n_rows))
    for name, values in (("label", y), ("site", site)):
        if values is not None:
            known[name] = _one_each(name, values, n_rows)
    told = None if confounds is None else _check_confounds(confounds, known)
    for name, values in (told or {}).items():
        known[name] = _one_each(f"confounds: {name}", values, n_rows)
    names = [subject.participant_id for subject in table.rows]
    people = names if groups is None else _one_each("groups", groups, n_rows)
    cohort = Cohort.build(
        np.asarray(embedder.transform(X)),
        names,
        [str(person) for person in people],
        known,
        None if y is None else "label",
        None if told is None else list(told),
    )
    n_jobs = resolve_n_jobs(embedder.n_jobs)
    inputs = look_at_inputs(cohort, table.rows, encoder, n_jobs=n_jobs)
    facts = [
        ("subjects", f"{n_rows}, {', '.join(table.modalities)}"),
        ("checkpoint", f"{embedder.checkpoint}, {encoder.checkpoint.fingerprint}"),
        ("embedding", f"{encoder.n_features} numbers, pooling {encoder.pooling}"),
        ("version", f"brainfeat {__version__}"),
    ]
    provenance = {
        "parameters": embedder.get_params(deep=False),
        # Not `to_dict`: a brain mask may be a function that only this process knows.
        "preprocessing": asdict(encoder.preprocessor),
    }
    body = report_body(_TITLE, facts, cohort, inputs, provenance)
    # nilearn fills a template; what looks like a name in our page must stay.
    frame = render_page(_TITLE, "\0").replace("$", "$$").replace("\0", "$body")
    return EmbedderReport(Template(frame), body)


def _check_confounds(confounds: Any, known: pd.DataFrame) -> dict[str, Any]:
    # Columns by name; none may have that of another argument.
    if not isinstance(confounds, pd.DataFrame):
        raise InputError(
            f"confounds: expected a DataFrame, got {type(confounds).__name__}."
        )
    columns = {str(name): values for name, values in confounds.items()}
    taken = [name for name in columns if name in known]
    if taken:
        raise InputError(
            f"confounds: expected no column {taken[0]!r} beside the labels and sites "
            f"that were given, got {', '.join(columns)}."
        )
    return columns


def _one_each(name: str, values: Any, n_rows: int) -> list[Any]:
    found = list(values)
    if len(found) != n_rows:
        raise InputError(
            f"{name}: expected a value for each of {n_rows} subjects, got {len(found)}."
        )
    return found
