"""The demo: a cohort is simulated, embedded and classified, and a page tells of it."""

import textwrap
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from brainfeat._version import __version__
from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.embedding.subject_encoder import SubjectEncoder
from brainfeat.exceptions import InputError
from brainfeat.io.volumes import read_volume
from brainfeat.reporting.demo_report import DemoReport, SliceView, write_demo_report
from brainfeat.reporting.probe import ProbeScores, cross_validate_probe
from brainfeat.simulation.cohort import simulate_cohort
from brainfeat.subjects.manifest import collect_rows
from brainfeat.subjects.subject import Outcome
from brainfeat.tables.embedding_table import read_embeddings
from brainfeat.tables.provenance import describe_encoder
from brainfeat.tables.runs import RunOptions, embed_to_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DemoResult", "format_demo", "run_demo"]

Display = Callable[[int], AbstractContextManager[Callable[[Outcome[Any]], None]]]

_CHECKPOINT = "brainfound-tiny"
_SLICE_Y = -20.0  # mm in MNI152: the slice through both hippocampi
_VIEWS_PER_CLASS = 3
_SIMULATED = (
    "The scans are simulated, and so is the disease: shrinking medial temporal lobes "
    "of a severity that was drawn. The figures show that the software works, not how "
    "well patients can be told apart."
)
_UNTRAINED = (
    "The encoder is not trained: its features come from random weights. Whatever the "
    "classifier reads, it reads from them."
)


class DemoResult(NamedTuple):
    """What the demo found, and where it wrote it.

    Attributes
    ----------
    scores : tuple of ProbeScores
        The embedding's first, then what it must be compared with.
    caveats : tuple of str
        What must not be concluded.
    table, report, cohort : Path
        What was written.
    seconds : float
        Time that it all took.
    """

    scores: tuple[ProbeScores, ...]
    caveats: tuple[str, ...]
    table: Path
    report: Path
    cohort: Path
    seconds: float


def run_demo(
    output: Path,
    *,
    n_subjects: int = 40,
    seed: int = 0,
    n_jobs: int = 1,
    tell: Callable[[str], None] | None = None,
    display: Display | None = None,
) -> DemoResult:
    """Simulate, embed, classify and report, without any download.

    Parameters
    ----------
    output : Path
        Folder for cohort, table and page; scans of an earlier demo are kept.
    n_subjects : int
        Size of the cohort; half of it has the disease.
    seed : int
        Seed of the cohort.
    n_jobs : int
        Threads that read and preprocess.
    tell : callable, optional
        Called with a line of text at each step.
    display : callable, optional
        From the number of rows to a context that shows an `Outcome` for each.

    Returns
    -------
    DemoResult
        Scores and paths.

    Raises
    ------
    InputError
        If the cohort cannot be embedded, or a table or page in the folder is none of
        an earlier demo.
    """
    start = time.perf_counter()
    tell = tell or _ignore
    cohort, page = output / "cohort", output / "report.html"
    table = output / "embeddings.parquet"
    for path in (table, page):
        if path.exists() and not cohort.exists():
            raise InputError(
                f"{path}: exists without the cohort of a demo beside it; choose "
                "another folder."
            )
    tell(f"simulating {n_subjects} subjects in {cohort}")
    simulate_cohort(cohort, n_subjects, labels=False, random_state=seed)
    encoder = SubjectEncoder(Checkpoint.load(_CHECKPOINT))
    tell(f"embedding with {_CHECKPOINT}")
    _embed(cohort, table, encoder, n_jobs, display)
    metadata, embeddings, _ = read_embeddings(table)
    tell("cross-validating a classifier")
    scores = _score(metadata, embeddings)
    trained = encoder.checkpoint.config.trained
    caveats = (_SIMULATED,) if trained else (_SIMULATED, _UNTRAINED)
    result = DemoResult(
        scores,
        caveats,
        table,
        page,
        cohort,
        time.perf_counter() - start,
    )
    _write_report(result, metadata, embeddings, encoder)
    return result


def format_demo(result: DemoResult) -> str:
    """Tell of the demo on a terminal.

    Parameters
    ----------
    result : DemoResult
        From `run_demo`.

    Returns
    -------
    str
        A small table, what it does not mean, and where the files are.
    """
    n_repeats, n_folds = result.scores[0].auc.shape
    width = max(len(score.name) for score in result.scores)
    lines = [
        "",
        f"{'features':<{width}}  number   AUC  spread",
        *(
            f"{score.name:<{width}}  {score.n_features:>6}  {score.mean:.2f}"
            f"    {score.spread:.2f}"
            for score in result.scores
        ),
        "",
        f"AUC of a logistic regression, {n_folds}-fold cross-validated by subject "
        f"({n_repeats} repeats;",
        "spread: standard deviation over the repeats). 0.50 is chance.",
        "",
        *(textwrap.fill(f"note: {caveat}", 79) for caveat in result.caveats),
        "",
        f"table:    {result.table}",
        f"report:   {result.report}",
        f"cohort:   {result.cohort}",
        f"done in {result.seconds:.0f} s",
    ]
    return "\n".join(lines)


def _embed(
    cohort: Path,
    table: Path,
    encoder: SubjectEncoder,
    n_jobs: int,
    display: Display | None,
) -> None:
    manifest = collect_rows([str(cohort)], modalities=encoder.modalities)
    n_rows = len(manifest.rows)
    with display(n_rows) if display else nullcontext(_ignore) as on_event:
        summary = embed_to_table(
            manifest.rows,
            table,
            encoder,
            provenance=describe_encoder(encoder, _CHECKPOINT),
            options=RunOptions(n_jobs=n_jobs, overwrite=True),
            on_event=on_event,
        )
    if summary.failed:
        raise InputError(f"{summary.failures}: {summary.failed} subjects failed.")


def _score(
    metadata: "pd.DataFrame", embeddings: NDArray[np.float32]
) -> tuple[ProbeScores, ...]:
    labels = _labels(metadata)
    groups = metadata["participant_id"]
    who = np.column_stack([metadata["age"], metadata["sex"] == "F"]).astype(float)
    return (
        cross_validate_probe("embedding", embeddings, labels, groups),
        cross_validate_probe("age and sex alone", who, labels, groups),
    )


def _labels(metadata: "pd.DataFrame") -> list[str]:
    return ["disease" if ill else "control" for ill in metadata["diagnosis"]]


def _write_report(
    result: DemoResult,
    metadata: "pd.DataFrame",
    embeddings: NDArray[np.float32],
    encoder: SubjectEncoder,
) -> None:
    labels = _labels(metadata)
    pca = PCA(2, random_state=0)
    projection = pca.fit_transform(StandardScaler().fit_transform(embeddings))
    first, second = pca.explained_variance_ratio_
    report = DemoReport(
        facts=_facts(result, len(metadata), encoder),
        caveats=result.caveats,
        views=_draw_views(metadata, labels, encoder),
        scores=result.scores,
        projection=projection,
        explained=(float(first), float(second)),
        labels=labels,
        names=[str(name) for name in metadata["participant_id"]],
    )
    write_demo_report(result.report, report)


def _facts(
    result: DemoResult, n_subjects: int, encoder: SubjectEncoder
) -> list[tuple[str, str]]:
    # Names beside the page, so that the folder can be moved.
    cohort, table = f"{result.cohort.name}/", result.table.name
    grid = " x ".join(map(str, encoder.preprocessor.shape))
    return [
        ("cohort", f"{n_subjects} simulated subjects, T1w, in {cohort}"),
        ("checkpoint", f"{_CHECKPOINT}, {encoder.checkpoint.fingerprint}"),
        ("preprocessing", f"{grid} voxels of {encoder.preprocessor.spacing} mm"),
        ("embedding", f"{encoder.n_features} numbers a subject, in {table}"),
        ("time", f"{result.seconds:.0f} s"),
        ("version", f"brainfeat {__version__}"),
    ]


def _draw_views(
    metadata: "pd.DataFrame", labels: Sequence[str], encoder: SubjectEncoder
) -> list[SliceView]:
    views = []
    for label in sorted(set(labels)):
        rows = metadata[[value == label for value in labels]].head(_VIEWS_PER_CLASS)
        for row in rows.itertuples():
            caption = f"{row.participant_id}, {label}, {row.age:.0f} years"
            views.append(SliceView(caption, _coronal_slice(str(row.T1w), encoder)))
    return views


def _coronal_slice(path: str, encoder: SubjectEncoder) -> NDArray[np.uint8]:
    volumes = {"T1w": read_volume(path)}
    subject = encoder.preprocessor.apply(volumes, encoder.modalities)
    data = subject.data[encoder.modalities.index("T1w")]
    to_voxel = np.linalg.inv(subject.geometry.affine)
    j = round(float(to_voxel[1, 1] * _SLICE_Y + to_voxel[1, 3]))
    plane = data[:, np.clip(j, 0, data.shape[1] - 1), ::-1].T  # top row is superior
    low, high = np.percentile(plane, (1, 99.5))
    unit = np.clip((plane - low) / max(high - low, 1e-6), 0.0, 1.0)
    return np.repeat(np.repeat((255 * unit).astype(np.uint8), 2, axis=0), 2, axis=1)


def _ignore(_: Any) -> None:
    """Tell nobody."""
