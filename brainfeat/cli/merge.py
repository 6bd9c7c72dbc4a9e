"""``brainfeat merge``: join the tables of shards."""

__all__ = ["format_absent", "format_merge", "merge", "merge_with_failures"]

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from brainfeat.cli.messages import finish
from brainfeat.cli.options import OverwriteOption, TableOption
from brainfeat.subjects.failures import failures_path, is_failures_path, merge_failures

if TYPE_CHECKING:
    from brainfeat.tables.merging import MergedTable, Shard


def merge(
    tables: Annotated[
        list[Path],
        typer.Argument(
            metavar="TABLE", help="Tables that brainfeat embed --shard wrote."
        ),
    ],
    output: TableOption,
    overwrite: OverwriteOption = False,
) -> None:
    """Join the tables of shards into one table.

    The exit status is 1 if some subjects failed in their shards, or a shard has no
    table.
    """
    merged, n_failed = merge_with_failures(tables, output, overwrite=overwrite)
    if merged.absent:
        typer.echo(format_absent(merged.absent), err=True)
    failed = bool(n_failed or merged.absent)
    finish(format_merge(merged.n_rows, n_failed, output), failed=failed)


def merge_with_failures(
    sources: Sequence[Path], output: Path, *, overwrite: bool
) -> tuple["MergedTable", int]:
    """Join tables and the tables of failures beside them; return also their number.

    Tables of failures among ``sources``, as from a glob ``*.tsv``, are joined too.
    """
    from brainfeat.tables.merging import merge_tables

    tables = [source for source in sources if not is_failures_path(source)]
    merged = merge_tables(tables, output, overwrite=overwrite)
    # A shard of which all subjects failed has a table of failures only.
    target = failures_path(output)
    beside = map(failures_path, tables)
    named = (path for path in sources if is_failures_path(path))
    others = (path for path in named if path.absolute() != target.absolute())
    return merged, merge_failures([*beside, *others], target)


def format_absent(absent: Sequence["Shard"]) -> str:
    """List shards without a table in one line, as job arrays write several.

    Examples
    --------
    >>> from brainfeat.tables.merging import Shard
    >>> print(format_absent([Shard(3, 9)]))
    shard 3/9 has no table (no rows, all failed, or not ended)
    >>> print(format_absent([Shard(n, 9) for n in (1, 3, 4, 5, 9)]))
    shards 1,3-5,9 of 9 have no table (no rows, all failed, or not ended)
    """
    reasons = "(no rows, all failed, or not ended)"
    if len(absent) == 1:
        return f"shard {absent[0]} has no table {reasons}"
    ranges: list[list[int]] = []
    for shard in absent:
        if ranges and ranges[-1][-1] == shard.index - 1:
            ranges[-1].append(shard.index)
        else:
            ranges.append([shard.index])
    texts = ("-".join(map(str, dict.fromkeys([r[0], r[-1]]))) for r in ranges)
    return f"shards {','.join(texts)} of {absent[0].count} have no table {reasons}"


def format_merge(n_rows: int, n_failed: int, output: Path) -> str:
    """Summarise a merge for the terminal.

    Examples
    --------
    >>> print(format_merge(7, 0, Path("all.parquet")))
    7 rows, 0 failed
    table:    all.parquet
    """
    lines = [f"{n_rows} rows, {n_failed} failed", f"table:    {output}"]
    if n_failed:
        lines.append(f"failures: {failures_path(output)}")
    return "\n".join(lines)
