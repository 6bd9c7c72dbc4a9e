"""``brainfeat convert``."""

__all__ = ["convert"]

from pathlib import Path
from typing import Annotated

import typer

from brainfeat.cli.options import check_is_new


def convert(
    foreign: Annotated[
        str,
        typer.Argument(
            metavar="WEIGHTS", help="DINOv2 weights of Meta, transformers or timm."
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Checkpoint folder to write.")
    ],
) -> None:
    """Convert DINOv2 weights to a checkpoint folder."""
    from brainfeat.checkpoint.checkpoint import Checkpoint

    check_is_new(output)
    folder = Checkpoint.load(foreign).save(output)
    typer.echo(f"checkpoint: {folder}")
