"""``brainfeat report``."""

__all__ = ["report"]

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from brainfeat.cli.messages import finish
from brainfeat.cli.options import JobsOption, LabelColumnOption
from brainfeat.subjects.failures import one_line


def report(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE",
            help="Table that embed wrote, or the folder of a run of pretrain.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Page to write.  [default: TABLE with .html, or curves.html in a run]",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="participants.tsv: diagnosis, site, age..."),
    ] = None,
    label_column: LabelColumnOption = None,
    pos_label: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS",
            help="Positive class, that scores are of.  [default: 1, or no controls]",
        ),
    ] = None,
    regions: Annotated[
        bool,
        typer.Option(
            "--regions",
            help="Find the regions that the probe uses; encodes all images again.",
        ),
    ] = False,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Also write the figures as SVG and PNG, for a paper."
        ),
    ] = None,
    jobs: JobsOption = 1,
) -> None:
    """Write a page about a table, or the curves of a run.

    Previews that embed kept beside the table are shown. Images of rows without one
    are preprocessed again; if some cannot be, the exit status is 1.
    """
    from brainfeat.reporting.run_report import is_run, report_on_run

    if is_run(table):
        finish(f"report:   {report_on_run(table, output)}", failed=False)
        return
    from brainfeat.reporting.table_report import report_on_table

    result = report_on_table(
        table,
        output,
        labels=labels,
        label_column=label_column,
        pos_label=pos_label,
        regions=regions,
        figures=figures,
        command=shlex.join(["brainfeat", *sys.argv[1:]]),
        n_jobs=jobs,
        show_progress=True,
    )
    for name, reason in result.failures:
        typer.echo(f"failed: {one_line(f'{name}: {reason}')}", err=True)
    finish(f"report:   {result.path}", failed=bool(result.failures))
