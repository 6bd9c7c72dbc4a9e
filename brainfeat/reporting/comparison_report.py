"""The report that compares embedding tables."""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainfeat._version import __version__
from brainfeat.evaluation import Comparison, compare_embeddings
from brainfeat.evaluation.shared_rows import SharedRows, find_shared_rows
from brainfeat.evaluation.tasks import Kind
from brainfeat.exceptions import ConfoundingWarning, InputError, LeakageWarning
from brainfeat.io.atomic import atomic_write, check_can_write
from brainfeat.reporting.baselines import Baseline, embed_baseline
from brainfeat.reporting.cohort import Cohort, join_participants
from brainfeat.reporting.comparison_page import comparison_page
from brainfeat.reporting.page import is_own_page, render_page
from brainfeat.reporting.table_report import read_participants
from brainfeat.subjects.failures import count_failures, failures_path
from brainfeat.subjects.subject import Outcome
from brainfeat.tables.delimited import read_sidecar
from brainfeat.tables.embedding_table import read_embeddings

__all__ = ["ComparisonOptions", "ComparisonReport", "report_on_comparison"]

_NAME = "compare.html"


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions:
    """Which columns are used, which rows, and which baselines are added."""

    label_column: str | None = None
    site_column: str | None = None
    task: Kind = "auto"
    pos_label: str | None = None
    baselines: Sequence[Baseline] = ()
    exclude_doubtful: bool = False
    n_jobs: int = 1


# Opens a display of so many outcomes, each of which the display is called with.
ShowOutcomes = Callable[[int], AbstractContextManager[Callable[[Outcome[Any]], None]]]


@contextmanager
def _show_nothing(_total: int) -> Iterator[Callable[[Outcome[Any]], None]]:
    yield lambda _outcome: None


class ComparisonReport(NamedTuple):
    """The page, the tables of numbers beside it, and what they say."""

    path: Path
    comparison: Comparison
    n_failed: int  # images of baselines


class _Table(NamedTuple):
    """An embedding table, or a baseline."""

    metadata: pd.DataFrame
    features: NDArray[np.floating]
    provenance: Mapping[str, Any]
    n_failed: int
    seconds: float | None  # a volume
    remark: str = ""


def report_on_comparison(
    paths: Sequence[Path],
    output: Path | None = None,
    *,
    labels: Path | None = None,
    options: ComparisonOptions | None = None,
    show: ShowOutcomes = _show_nothing,
) -> ComparisonReport:
    """Compare tables by their label, and write a page with two tables beside it.

    ``labels`` is a participants.tsv, or a CSV file, whose columns are joined by
    participant and session; by default, the first table's own columns are used.
    ``output`` is a page or a folder; by default, compare.html beside the first table.
    """
    options = options or ComparisonOptions()
    page = _find_page(paths, output)
    tables = _read_tables(paths, options)
    known = _read_known(tables, labels)  # fails before the work of minutes
    _find_columns(tables, known, options)
    n_failed = _add_baselines(
        tables, page, _describe_baselines(paths[0]), options, show
    )
    shared = find_shared_rows({name: t.metadata for name, t in tables.items()})
    cohort = _find_columns(tables, known, options)
    comparison, remarks = _compare(tables, shared, cohort, options)
    facts = _facts(labels, cohort, comparison)
    title = f"brainfeat compare: {cohort.label}"
    origins = {name: _origin(name, t, comparison) for name, t in tables.items()}
    body = comparison_page(title, facts, comparison, origins, remarks)
    _write(page, render_page(title, body), comparison)
    return ComparisonReport(page, comparison, n_failed)


def _add_baselines(
    tables: dict[str, _Table],
    page: Path,
    remarks: Mapping[Baseline, str],
    options: ComparisonOptions,
    show: ShowOutcomes,
) -> int:
    """Embed the images of the first table by the baselines; count those that fail."""
    first, n_failed = next(iter(tables.values())), 0
    for kind in options.baselines:
        path = page.with_name(f"{page.stem}-{kind}.parquet")
        with show(len(first.metadata)) as display:
            table = embed_baseline(
                kind,
                first.metadata,
                dict(first.provenance),
                path,
                n_jobs=options.n_jobs,
                show=display,
            )
        failed, seconds = table.summary.failed, _read_seconds(path)
        n_failed += failed
        tables[kind] = _Table(*table[:3], failed, seconds, remarks[kind])
    return n_failed


def _find_page(paths: Sequence[Path], output: Path | None) -> Path:
    page = paths[0].with_name(_NAME) if output is None else output
    if page.suffix.lower() not in {".html", ".htm"}:
        page = page / _NAME
    if page.is_dir():
        raise InputError(f"{page}: expected a page to write, got a folder.")
    if output is None and page.exists() and not is_own_page(page):
        raise InputError(f"{page}: exists and is not ours; choose another by --output.")
    check_can_write(page)
    return page


def _read_tables(
    paths: Sequence[Path], options: ComparisonOptions
) -> dict[str, _Table]:
    repeated = [
        path for path, n in Counter(p.absolute() for p in paths).items() if n > 1
    ]
    if repeated:
        raise InputError(f"{repeated[0]}: given more than once.")
    if len(paths) + len(options.baselines) < 2:
        raise InputError("expected at least two tables, or one and --baseline.")
    tables = {}
    for name, path in zip(_name_tables(paths), paths, strict=True):
        metadata, features, provenance = read_embeddings(path)
        if "participant_id" not in metadata:
            raise InputError(f"{path}: expected a column participant_id, got none.")
        n_failed = count_failures(failures_path(path))
        seconds = _read_seconds(path)
        tables[name] = _Table(metadata, features, provenance, n_failed, seconds)
    return tables


def _read_seconds(path: Path) -> float | None:
    value = (read_sidecar(path) or {}).get("seconds_per_volume")
    return float(value) if isinstance(value, int | float) else None


def _name_tables(paths: Sequence[Path]) -> list[str]:
    """Name tables by their files, and by their folders where these are alike."""
    names = [path.stem for path in paths]
    for depth in range(1, 4):
        counts = Counter(names)
        if max(counts.values()) == 1:
            return names
        longer = [
            "/".join([*p.absolute().parts[-1 - depth : -1], p.stem]) for p in paths
        ]
        pairs = zip(names, longer, strict=True)
        names = [long if counts[name] > 1 else name for name, long in pairs]
    return names if len(set(names)) == len(names) else list(map(os.fspath, paths))


def _read_known(tables: Mapping[str, _Table], labels: Path | None) -> pd.DataFrame:
    first = next(iter(tables.values())).metadata
    if labels is None:
        return first
    return join_participants(first, read_participants(labels), str(labels))


def _find_columns(
    tables: Mapping[str, _Table], known: pd.DataFrame, options: ComparisonOptions
) -> Cohort:
    """Find the columns of the label and of the site in the first table's rows."""
    first = next(iter(tables.values()))
    cohort = Cohort.build(
        first.features,
        first.metadata["participant_id"].map(str).tolist(),
        first.metadata["participant_id"].map(str).tolist(),
        known,
        label=options.label_column,
        pos_label=options.pos_label,
    )
    columns = ", ".join(map(str, known.columns))
    if cohort.label is None:
        raise InputError(
            "--label-column: expected a column of labels, such as diagnosis, got "
            f"{columns}."
        )
    if options.site_column is not None and options.site_column not in known:
        raise InputError(
            f"--site-column: expected a column {options.site_column!r}, got {columns}."
        )
    return cohort


def _compare(
    tables: Mapping[str, _Table],
    shared: SharedRows,
    cohort: Cohort,
    options: ComparisonOptions,
) -> tuple[Comparison, list[str]]:
    first = next(iter(shared.positions))
    rows = cohort.known.iloc[shared.positions[first]]
    y = _whole_numbers(rows[cohort.label])
    doubtful = _find_doubtful(tables, shared)
    if options.exclude_doubtful:
        y = y.where(~doubtful, None)
    site = options.site_column or cohort.site
    with warnings.catch_warnings():
        # The page and the summary show them as notes.
        warnings.simplefilter("ignore", ConfoundingWarning)
        warnings.simplefilter("ignore", LeakageWarning)
        comparison = compare_embeddings(
            {n: t.features[shared.positions[n]] for n, t in tables.items()},
            y.to_numpy(dtype=object),
            groups=shared.participants,
            site=None if site is None else rows[site].to_numpy(dtype=object),
            task=options.task,
            pos_label=options.pos_label,
        )
    for name, n_others in shared.n_others.items():
        comparison.n_dropped[name] += n_others
    return comparison, _remarks(tables, comparison, doubtful, options)


def _whole_numbers(values: "pd.Series[Any]") -> "pd.Series[Any]":
    """Return numbers that a missing value made fractions as whole numbers again."""
    values = values.reset_index(drop=True)
    if values.dtype.kind == "f" and bool((values.dropna() % 1 == 0).all()):
        return values.astype("Int64").astype(object)
    return values.astype(object)


def _find_doubtful(
    tables: Mapping[str, _Table], shared: SharedRows
) -> NDArray[np.bool_]:
    """Return which rows any table is in doubt of."""
    doubtful = np.zeros(len(shared.keys), dtype=np.bool_)
    for name, table in tables.items():
        if "qc_doubt" in table.metadata:
            doubts = table.metadata["qc_doubt"].fillna("").map(str).to_numpy()
            doubtful |= doubts[shared.positions[name]] != ""
    return doubtful


def _remarks(
    tables: Mapping[str, _Table],
    comparison: Comparison,
    doubtful: NDArray[np.bool_],
    options: ComparisonOptions,
) -> list[str]:
    remarks = []
    dropped = [f"{name} {n}" for name, n in comparison.n_dropped.items() if n]
    if dropped:
        remarks.append(
            f"Rows left out, as another table lacks them or they have no label or "
            f"values that are not finite: {', '.join(dropped)}."
        )
    if failed := [f"{name} {t.n_failed}" for name, t in tables.items() if t.n_failed]:
        remarks.append(f"Scans that failed and have no row: {', '.join(failed)}.")
    if n_doubtful := int(doubtful.sum()):
        advice = "included: --exclude-doubtful leaves them out"
        what = "left out" if options.exclude_doubtful else advice
        remarks.append(f"{n_doubtful} rows are in doubt (column qc_doubt), and {what}.")
    return remarks


def _facts(
    labels: Path | None, cohort: Cohort, comparison: Comparison
) -> dict[str, str]:
    source = "the first table" if labels is None else os.fspath(labels)
    return {
        "label": f"{cohort.label} of {source}: {comparison.label}",
        "rows": f"{comparison.n_rows} of {comparison.n_subjects} subjects",
        "embeddings": ", ".join(comparison.names),
        "version": f"brainfeat {__version__}",
    }


def _describe_baselines(first: Path) -> dict[Baseline, str]:
    return {
        "untrained": f"the encoder of {first.name} with random weights",
        "volumetry": (
            "volumes in ml of the brain, its tissues and its structures, read by "
            "brainfound-tiny's anatomy pooling; no segmentation"
        ),
    }


def _origin(name: str, table: _Table, comparison: Comparison) -> dict[str, str]:
    made_by = table.provenance
    seconds = table.seconds
    licence = made_by.get("licence") or "not recorded"
    return {
        "what": table.remark or str(made_by.get("checkpoint", "not recorded")),
        "pooling": str(made_by.get("pooling", "not recorded")),
        "numbers a row": str(table.features.shape[1]),
        "seconds a volume": "not recorded" if seconds is None else f"{seconds:.2f}",
        "licence": str(licence),
        "rows left out": str(comparison.n_dropped[name]),
    }


def _write(page: Path, text: str, comparison: Comparison) -> None:
    """Write the page, and its scores and differences as tables beside it."""
    tables = {"scores": comparison.scores, "differences": comparison.differences}
    for name, table in tables.items():
        with atomic_write(page.with_name(f"{page.stem}.{name}.tsv")) as partial:
            table.to_csv(partial, sep="\t", index=False, na_rep="n/a")
    with atomic_write(page) as partial:
        partial.write_text(text, encoding="utf-8")
