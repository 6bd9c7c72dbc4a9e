"""What ``brainfeat merge`` does once its options are read."""

__all__ = [
    "MergeSummary",
    "format_absent",
    "format_merge",
    "merge",
    "merge_from_command_line",
]

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from brainfeat.cli.messages import finish
from brainfeat.cli.options import LayoutOption, OverwriteOption, TableOption
from brainfeat.subjects.failures import failures_path, is_failures_path, merge_failures
from brainfeat.tables.shards import Shard

if TYPE_CHECKING:
    from brainfeat.tables.formats import Layout


def merge(
    tables: Annotated[
        list[Path],
        typer.Argument(metavar="TABLE", help="Tables of brainfeat embed --shard."),
    ],
    output: TableOption,
    layout: LayoutOption = "wide",
    overwrite: OverwriteOption = False,
) -> None:
    """Join the tables of shards into the table of the whole.

    The exit status is 1 if some subjects failed in their shards, or a shard has no
    table.
    """
    summary = merge_from_command_line(
        tables, output, overwrite=overwrite, layout=layout
    )
    if summary.absent:
        typer.echo(format_absent(summary.absent), err=True)
    failed = bool(summary.n_failed or summary.absent)
    finish(format_merge(summary, output), failed=failed)


class MergeSummary(NamedTuple):
    """What was joined.

    Attributes
    ----------
    n_rows, n_failed : int
        Rows of the table, and subjects that the parts list as failed.
    absent : tuple of Shard
        Parts of the run that have no table.
    """

    n_rows: int
    n_failed: int
    absent: tuple[Shard, ...]


def merge_from_command_line(
    sources: Sequence[Path], output: Path, *, overwrite: bool, layout: "Layout"
) -> MergeSummary:
    """Join tables, and the tables of failures beside them.

    Parameters
    ----------
    sources : sequence of Path
        Tables of embeddings. Tables of failures among them, as ``*.tsv`` gives them,
        are joined with those that lie beside the tables.
    output : Path
        Table to write.
    overwrite : bool
        Whether to replace a table that is there.
    layout : {"wide", "list"}
        As for ``brainfeat embed``.

    Returns
    -------
    MergeSummary
        Rows, failures and shards that are not there.
    """
    from brainfeat.tables.merging import merge_tables

    tables = [source for source in sources if not is_failures_path(source)]
    merged = merge_tables(tables, output, overwrite=overwrite, layout=layout)
    # Where all of a shard failed, there is a table of failures alone.
    target = failures_path(output)
    beside = map(failures_path, tables)
    named = (path for path in sources if is_failures_path(path))
    others = (path for path in named if path.absolute() != target.absolute())
    n_failed = merge_failures([*beside, *others], target)
    return MergeSummary(merged.n_rows, n_failed, merged.absent)


def format_absent(absent: Sequence[Shard]) -> str:
    """Say which parts have no table.

    Parameters
    ----------
    absent : sequence of Shard
        One at least, in order.

    Returns
    -------
    str
        One line; several parts as job arrays take them.

    Examples
    --------
    >>> print(format_absent([Shard(3, 9)]))
    shard 3/9 has no table (no rows, all failed, or not ended)
    >>> print(format_absent([Shard(n, 9) for n in (1, 3, 4, 5, 9)]))
    shards 1,3-5,9 of 9 have no table (no rows, all failed, or not ended)
    """
    reasons = "(no rows, all failed, or not ended)"
    if len(absent) == 1:
        return f"shard {absent[0]} has no table {reasons}"
    runs: list[list[int]] = []
    for shard in absent:
        if runs and runs[-1][-1] == shard.index - 1:
            runs[-1].append(shard.index)
        else:
            runs.append([shard.index])
    told = ",".join("-".join(map(str, dict.fromkeys([r[0], r[-1]]))) for r in runs)
    return f"shards {told} of {absent[0].count} have no table {reasons}"


def format_merge(summary: MergeSummary, output: Path) -> str:
    """Say what was joined.

    Parameters
    ----------
    summary : MergeSummary
        From `merge_from_command_line`.
    output : Path
        The table.

    Returns
    -------
    str
        Lines for a terminal.

    Examples
    --------
    >>> print(format_merge(MergeSummary(7, 0, ()), Path("all.parquet")))
    7 rows, 0 failed
    table:    all.parquet
    """
    lines = [f"{summary.n_rows} rows, {summary.n_failed} failed"]
    lines.append(f"table:    {output}")
    if summary.n_failed:
        lines.append(f"failures: {failures_path(output)}")
    return "\n".join(lines)
