"""What ``brainfeat merge`` does once its options are read."""

__all__ = ["format_merge", "merge_from_command_line"]

from collections.abc import Sequence
from pathlib import Path

from brainfeat.failures import failures_path, merge_failures
from brainfeat.merging import merge_tables
from brainfeat.table_formats import Layout


def merge_from_command_line(
    sources: Sequence[Path], output: Path, *, overwrite: bool, layout: Layout
) -> tuple[int, int]:
    """Join tables, and the tables of failures beside them.

    Parameters
    ----------
    sources : sequence of Path
        Tables of embeddings.
    output : Path
        Table to write.
    overwrite : bool
        Whether to replace a table that is there.
    layout : {"wide", "list"}
        As for ``brainfeat embed``.

    Returns
    -------
    n_rows, n_failed : int
        Rows of the table, and subjects that the parts list as failed.
    """
    n_rows = merge_tables(sources, output, overwrite=overwrite, layout=layout)
    n_failed = merge_failures(map(failures_path, sources), failures_path(output))
    return n_rows, n_failed


def format_merge(n_rows: int, n_failed: int, output: Path) -> str:
    """Say what was joined.

    Parameters
    ----------
    n_rows, n_failed : int
        From `merge_from_command_line`.
    output : Path
        The table.

    Returns
    -------
    str
        Lines for a terminal.

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
