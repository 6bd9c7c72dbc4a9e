"""The report of a fitted embedder, in the form of nilearn's reports."""

import os
from collections.abc import Mapping
from string import Template
from typing import Any

import numpy as np
import pandas as pd
from nilearn.reporting import HTMLReport

from brainfeat._version import __version__
from brainfeat.display.summarised import Summarised, format_facts
from brainfeat.embedding.embedder import BrainFoundEmbedder
from brainfeat.embedding.subject_encoder import SubjectEncoder
from brainfeat.evaluation.columns import check_order
from brainfeat.exceptions import InputError
from brainfeat.io.atomic import atomic_write
from brainfeat.models.threads import resolve_n_jobs
from brainfeat.reporting.cohort import Cohort
from brainfeat.reporting.cohort_report import cohort_report
from brainfeat.reporting.page import render_page
from brainfeat.reporting.report_inputs import preprocess_inputs
from brainfeat.subjects.subject import join_modalities
from brainfeat.subjects.table import SubjectTable

__all__ = ["EmbedderReport", "generate_report"]

_TITLE = "BrainFoundEmbedder"


def generate_report(
    embedder: BrainFoundEmbedder,
    X: Any = None,
    y: Any = None,
    *,
    groups: Any = None,
    site: Any = None,
    confounds: Any = None,
    pos_label: Any = None,
) -> "EmbedderReport":
    """Generate an HTML report about subjects: inputs, outliers, a map, and scores.

    Parameters
    ----------
    embedder : BrainFoundEmbedder
        Fitted.
    X : list, Series, DataFrame, path-like or image, optional
        Subjects, as for ``embedder.fit``; by default those that it was fitted on.
    y : array-like of shape (n_subjects,), optional
        Two classes for a linear probe.
    groups : array-like of shape (n_subjects,), optional
        Name of the subject in each row, if some were scanned repeatedly.
    site : array-like of shape (n_subjects,), optional
        Site or scanner.
    confounds : DataFrame, optional
        Confounds of ``y``, such as ``age`` and ``sex``, with a row a subject. All
        columns are regressed out.
    pos_label : str, int or bool, optional
        The positive class of ``y``; by default as for `evaluate_probe`.

    Returns
    -------
    EmbedderReport
        As nilearn's estimators return it: a notebook displays it, and
        ``save_as_html(path)`` writes it to one file.

    Raises
    ------
    InputError
        If ``X`` is needed, lengths or the orders of indices differ, ``pos_label`` is no
        class of ``y``, or ``confounds`` is no DataFrame or has a column ``label`` or
        ``site`` beside ``y`` or ``site``.
    VolumeError
        If a scan cannot be read.

    Examples
    --------
    A report about the scans of a study::

        embedder = BrainFoundEmbedder().fit(paths)
        generate_report(embedder, y=diagnosis).save_as_html("report.html")
    """
    subjects = X if X is not None else embedder.fitted_on
    if subjects is None:
        raise InputError(
            "generate_report: expected X, as fit was given none; or the estimator "
            "was pickled since."
        )
    check_order(subjects, y=y, groups=groups, site=site, confounds=confounds)
    encoder, table = embedder.read_subjects(subjects)
    names = [subject.participant_id for subject in table.rows]
    participants = names if groups is None else groups
    participants = _check_length("groups", participants, len(names))
    known, used_confounds = _known_columns(len(names), y, site, confounds)
    if "modalities" not in known:
        images = [subject.images for subject in table.rows]
        known["modalities"] = [join_modalities(i, encoder.modalities) for i in images]
    cohort = Cohort.build(
        np.asarray(embedder.transform(table.rows)),
        names,
        [str(name) for name in participants],
        known,
        label=None if y is None else "label",
        confounds=used_confounds,
        pos_label=pos_label,
    )
    n_jobs = resolve_n_jobs(embedder.n_jobs)
    inputs = preprocess_inputs(cohort, table.rows, encoder, n_jobs=n_jobs)
    provenance = {
        "parameters": embedder.get_params(deep=False),
        # Not `to_dict`: a brain mask may be a function without a name.
        "preprocessing": {**vars(encoder.preprocessor)},
    }
    facts = _facts(embedder, encoder, table)
    body, _ = cohort_report(_TITLE, facts, cohort, inputs, provenance)
    return EmbedderReport(body, facts)


def _facts(
    embedder: BrainFoundEmbedder, encoder: SubjectEncoder, table: SubjectTable
) -> dict[str, str]:
    checkpoint = encoder.checkpoint
    licence = checkpoint.config.origin.licence
    return {
        "subjects": f"{len(table.rows)}, {', '.join(table.modalities)}",
        "checkpoint": f"{embedder.checkpoint}, {checkpoint.fingerprint}",
        **({"licence": licence} if licence else {}),
        "embedding": f"{encoder.n_features} numbers, pooling {encoder.pooling}",
        "version": f"brainfeat {__version__}",
    }


class EmbedderReport(Summarised, HTMLReport):
    """A report as nilearn's: a notebook shows it, and it saves itself as a file.

    Parameters
    ----------
    body : str
        HTML of the report.
    facts : mapping of str to str
        What the report is about, for `summary`.
    """

    def __init__(self, body: str, facts: Mapping[str, str]) -> None:
        # nilearn fills a template: escape what looks like a variable in the page.
        page = render_page(_TITLE, "\0").replace("$", "$$").replace("\0", "$body")
        super().__init__(Template(page), body)
        self._facts = dict(facts)

    def summary(self) -> str:
        """Say what the report is about.

        Returns
        -------
        str
            Lines for a terminal.
        """
        return format_facts(self._facts.items())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        del include, exclude
        # Inline: a notebook would show nilearn's frame, of 800 by 400 pixels.
        return {"text/html": self.body}

    def save_as_html(self, file_name: str | os.PathLike[str]) -> None:
        """Write the report to one file that needs no network.

        Parameters
        ----------
        file_name : path
            File to write, without nilearn's frame of 800 pixels, which is too wide for
            a phone.
        """
        with atomic_write(file_name) as partial:
            partial.write_text(self.get_standalone(), encoding="utf-8")

    def _headline(self) -> str:
        n_bytes = len(self.body.encode())
        return f"{self._facts['subjects']}; {n_bytes / 1e6:.1f} MB of HTML"

    def _repr_html_(self) -> str:
        return str(self.body)


def _known_columns(
    n_rows: int, y: Any, site: Any, confounds: Any
) -> tuple[pd.DataFrame, list[str] | None]:
    """Return all columns in one table, and the names of the confounds."""
    known = pd.DataFrame(index=range(n_rows))
    for name, values in (("label", y), ("site", site)):
        if values is not None:
            known[name] = _check_length(name, values, n_rows)
    if confounds is None:
        return known, None
    if not isinstance(confounds, pd.DataFrame):
        kind = type(confounds).__name__
        raise InputError(f"confounds: expected a DataFrame, got {kind}.")
    names = [str(name) for name in confounds]
    taken = [name for name in names if name in known]
    if taken:
        raise InputError(
            f"confounds: expected no column {taken[0]!r} beside the labels and sites "
            f"that were given, got {', '.join(names)}."
        )
    for name, (_, values) in zip(names, confounds.items(), strict=True):
        known[name] = _check_length(f"confounds: {name}", values, n_rows)
    return known, names


def _check_length(name: str, values: Any, n_rows: int) -> list[Any]:
    items = list(values)
    if len(items) != n_rows:
        raise InputError(
            f"{name}: expected a value for each of {n_rows} subjects, got {len(items)}."
        )
    return items
