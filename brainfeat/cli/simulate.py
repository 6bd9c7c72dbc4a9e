"""``brainfeat simulate``."""

__all__ = ["simulate"]

from pathlib import Path
from typing import Annotated, Literal

import typer

from brainfeat.cli.options import ModalityOption, SeedOption


def simulate(
    output: Annotated[
        Path, typer.Argument(metavar="OUTPUT", help="BIDS folder to write.")
    ],
    n_subjects: Annotated[
        int,
        typer.Option(
            "-n", "--n-subjects", metavar="N", min=1, help="Number of subjects."
        ),
    ] = 60,
    modality: ModalityOption = None,
    disease: Annotated[
        Literal["medial-temporal", "lesions", "mass"],
        typer.Option(metavar="KIND", help="medial-temporal, lesions or mass."),
    ] = "medial-temporal",
    seed: SeedOption = 0,
) -> None:
    """Simulate a cohort with a known disease, as a BIDS folder."""
    from brainfeat.simulation.cohort import simulate_cohort

    participants = simulate_cohort(
        output,
        n_subjects,
        modalities=tuple(modality or ["T1w"]),
        random_state=seed,
        disease_kind=disease,
    )
    typer.echo(f"{len(participants)} subjects\nfolder:   {output}")
