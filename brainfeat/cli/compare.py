"""``brainfeat compare``: which of several embeddings predicts a label best."""

__all__ = ["compare"]

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from brainfeat.cli.messages import finish, show_outcomes
from brainfeat.cli.options import JobsOption, LabelColumnOption

if TYPE_CHECKING:
    from brainfeat.reporting.baselines import Baseline

_BASELINES: tuple["Baseline", ...] = ("untrained", "volumetry")


def _check_baselines(names: list[str] | None) -> list[str] | None:
    for name in names or ():
        if name not in _BASELINES:
            raise typer.BadParameter(
                f"expected {' or '.join(_BASELINES)}, got {name!r}."
            )
    return names


def compare(
    tables: Annotated[
        list[Path], typer.Argument(metavar="TABLE", help="Tables that embed wrote.")
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="participants.tsv: diagnosis, age, site...  [default: the tables']",
        ),
    ] = None,
    label_column: LabelColumnOption = None,
    site_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Column of sites.  [default: site, scanner]"),
    ] = None,
    task: Annotated[
        Literal["auto", "binary", "classes", "numbers"],
        typer.Option(help="What the label is."),
    ] = "auto",
    pos_label: Annotated[
        str | None,
        typer.Option(metavar="CLASS", help="Positive one of two classes."),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="untrained|volumetry",
            callback=_check_baselines,
            help="Compare with the first table's encoder of random weights, or with "
            "brain volumes; needs the images. Repeat for both.",
        ),
    ] = None,
    exclude_doubtful: Annotated[
        bool,
        typer.Option("--exclude-doubtful", help="Leave out rows with a qc_doubt."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Page or folder.  [default: compare.html by TABLE]"
        ),
    ] = None,
    jobs: JobsOption = 1,
) -> None:
    """Compare embeddings of the same scans by what they predict.

    The rows that all tables have are scored with the same folds by subject. Writes a
    page, and its scores and differences as TSV. If scans of a baseline fail, the exit
    status is 1.
    """
    from brainfeat.reporting.comparison_report import (
        ComparisonOptions,
        report_on_comparison,
    )

    kinds = [name for name in _BASELINES if name in (baseline or ())]
    result = report_on_comparison(
        tables,
        output,
        labels=labels,
        options=ComparisonOptions(
            label_column=label_column,
            site_column=site_column,
            task=task,
            pos_label=pos_label,
            baselines=kinds,
            exclude_doubtful=exclude_doubtful,
            n_jobs=jobs,
        ),
        show=show_outcomes,
    )
    dropped = [f"{name} {n}" for name, n in result.comparison.n_dropped.items() if n]
    if dropped:
        typer.echo(f"rows left out: {', '.join(dropped)}", err=True)
    if result.n_failed:
        typer.echo(f"failed: {result.n_failed} scans of baselines", err=True)
    summary = f"{result.comparison.summary()}\npage:     {result.path}"
    finish(summary, failed=bool(result.n_failed))
