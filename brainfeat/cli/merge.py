"""``brainfeat merge``: join the tables of shards."""

__all__ = ["format_merge", "merge", "merge_with_failures"]

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from brainfeat.cli.messages import finish
from brainfeat.cli.options import OptionalTableOption, OverwriteOption
from brainfeat.subjects.failures import (
    count_failures,
    failures_path,
    is_failures_path,
    merge_failures,
)

if TYPE_CHECKING:
    from brainfeat.tables.merging import MergedTable


def merge(
    tables: Annotated[
        list[Path],
        typer.Argument(metavar="TABLE", help="Tables of brainfeat embed --shard."),
    ],
    output: OptionalTableOption = None,
    overwrite: OverwriteOption = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Merge without some shards.")
    ] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Show how far each shard is; no merge.")
    ] = False,
) -> None:
    """Join the tables of shards into the table of the whole.

    Nothing is written if a shard has no table, except with --allow-missing. The exit
    status is 1 if some subjects failed in their shards, or a shard is missing.
    """
    if status:
        _show_status(tables)
        return
    if output is None:
        raise typer.BadParameter("expected the table to write.", param_hint="--output")
    from brainfeat.tables.merging import format_absent

    merged, n_failed = merge_with_failures(
        tables, output, overwrite=overwrite, allow_missing=allow_missing
    )
    if merged.absent:
        typer.echo(format_absent(merged.absent), err=True)
    failed = bool(n_failed or merged.absent)
    finish(format_merge(merged.n_rows, n_failed, output), failed=failed)


def _show_status(sources: Sequence[Path]) -> None:
    from brainfeat.tables.shard_status import read_status

    tables = [source for source in sources if not is_failures_path(source)]
    found = read_status(tables)
    counts = Counter[str](status.state for status in found)
    states = ("done", "running", "stopped", "missing")
    summary = ", ".join(f"{counts[state]} {state}" for state in states)
    lines = [*map(str, found), f"{len(found)} shards: {summary}"]
    is_whole = all(status.state == "done" for status in found)
    n_failed = sum(status.n_failed for status in found)
    finish("\n".join(lines), failed=bool(n_failed) or not is_whole)


def merge_with_failures(
    sources: Sequence[Path],
    output: Path,
    *,
    overwrite: bool,
    allow_missing: bool = False,
) -> tuple["MergedTable", int]:
    """Join tables and the tables of failures beside them; return also their number.

    Tables of failures among ``sources``, as from a glob ``*.tsv``, are joined too.
    """
    from brainfeat.tables.merging import merge_tables

    target = failures_path(output)
    tables = [source for source in sources if not is_failures_path(source)]
    named = (path for path in sources if is_failures_path(path))
    beside = list(map(failures_path, tables))
    # A shard of which all subjects failed has a table of failures only.
    others = [
        path
        for path in named
        if path.absolute() != target.absolute() and path not in beside
    ]
    merged = merge_tables(
        tables,
        output,
        overwrite=overwrite,
        allow_missing=allow_missing,
        n_failed=list(map(count_failures, others)),
    )
    return merged, merge_failures([*beside, *others], target)


def format_merge(n_rows: int, n_failed: int, output: Path) -> str:
    """Summarise a merge for the terminal.

    >>> print(format_merge(7, 0, Path("all.parquet")))
    7 rows, 0 failed
    table:    all.parquet
    """
    lines = [f"{n_rows} rows, {n_failed} failed", f"table:    {output}"]
    if n_failed:
        lines.append(f"failures: {failures_path(output)}")
    return "\n".join(lines)
