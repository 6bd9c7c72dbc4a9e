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
            metavar="WEIGHTS",
            help="Weights of others: a file or folder, the name of a known encoder "
            "('brainfeat info' lists them), or hf-hub:org/name:path@revision.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Checkpoint folder to write.")
    ],
    known_as: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="NAME",
            help="Known encoder whose weights these are, if the file does not tell.",
        ),
    ] = None,
) -> None:
    """Convert weights of others to a checkpoint folder."""
    from brainfeat.checkpoint.checkpoint import Checkpoint

    check_is_new(output)
    folder = Checkpoint.load(foreign, known_as=known_as).save(output)
    typer.echo(f"checkpoint: {folder}")
