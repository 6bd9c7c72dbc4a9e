"""``brainfeat demo``."""

__all__ = ["demo"]

from pathlib import Path
from typing import Annotated

import typer


def demo(
    output: Annotated[
        Path, typer.Argument(help="Folder to write: cohort, table and report.")
    ] = Path("brainfeat-demo"),
) -> None:
    """Simulate a cohort, embed and classify it; no downloads."""
    from brainfeat.cli.messages import show_outcomes
    from brainfeat.models.threads import resolve_n_jobs
    from brainfeat.reporting.demo import format_demo, run_demo

    result = run_demo(
        output,
        n_jobs=resolve_n_jobs(-1),
        tell=lambda line: typer.echo(line, err=True),
        display=show_outcomes,
    )
    typer.echo(format_demo(result))
