"""The command ``brainfeat finetune``."""

__all__ = ["finetune"]

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from brainfeat.cli.log import begin_log, write_line
from brainfeat.cli.messages import finish, report_problems
from brainfeat.cli.options import (
    CheckpointOption,
    DeviceOption,
    InputsArgument,
    JobsOption,
    LogFileOption,
    ModalityOption,
    SeedOption,
    check_is_new,
    check_output,
)

if TYPE_CHECKING:
    from brainfeat.finetuning.estimator import FineTunedEncoder


def finetune(
    inputs: InputsArgument,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the model.")
    ],
    label_column: Annotated[
        str, typer.Option(metavar="NAME", help="Column of the classes or numbers.")
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Table with participant_id and the label.  [default: the manifest]",
        ),
    ] = None,
    task: Annotated[
        Literal["auto", "classes", "numbers"],
        typer.Option(help="What the label is."),
    ] = "auto",
    checkpoint: CheckpointOption = "brainfound-tiny",
    adapt: Annotated[
        Literal["lora", "last", "all"],
        typer.Option(
            help="What is trained: small updates of the last blocks, these blocks, or "
            "the whole encoder."
        ),
    ] = "lora",
    blocks: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Blocks to train, from the last."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="The most steps; 0: a linear probe."),
    ] = None,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="Weigh classes by their frequency.")
    ] = False,
    folds: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Folds of people to validate by."),
    ] = None,
    modality: ModalityOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    jobs: JobsOption = 1,
    log_file: LogFileOption = None,
) -> None:
    """Adapt an encoder to a label, from a linear probe on.

    Training stops where people who are held out gain no more, whose score is printed.
    Subjects without a label are left out. The exit status is 1 if a row of the manifest
    cannot be used; a scan that cannot be read is an error.
    """
    from brainfeat.checkpoint.sharing import shared_checkpoint
    from brainfeat.finetuning.manifest import choose_task, read_labelled_rows
    from brainfeat.models.device import resolve_device

    check_is_new(output)
    check_output(output, is_folder=True)
    begin_log(str(resolve_device(device)), log_file)
    known = shared_checkpoint(checkpoint).config.encoder.modalities
    labelled = read_labelled_rows(
        inputs,
        label_column,
        labels=labels,
        modalities=known,
        wanted=modality or (),
    )
    report_problems(labelled.manifest)
    if labelled.unlabelled:
        write_line(
            f"warning: {len(labelled.unlabelled)} subjects without {label_column}."
        )
    kind, y = choose_task(labelled.labels, task)
    given = {"n_blocks": blocks, "n_steps": steps, "n_folds": folds}
    estimator = _make_estimator(kind, balanced=balanced).set_params(
        checkpoint=checkpoint,
        adapt=adapt,
        device=device,
        random_state=seed,
        n_jobs=jobs,
        verbose=1,
        **{name: value for name, value in given.items() if value is not None},
    )
    estimator.fit(labelled.rows, y)
    estimator.save(output)
    summary = _describe(estimator, len(labelled.rows), label_column)
    failed = bool(labelled.manifest.problems)
    finish(f"{summary}\nmodel:   {output}", failed=failed)


def _make_estimator(
    kind: Literal["auto", "classes", "numbers"], *, balanced: bool
) -> "FineTunedEncoder":
    if kind == "numbers":
        from brainfeat.finetuning.regressor import BrainFoundRegressor

        return BrainFoundRegressor()
    from brainfeat.finetuning.classifier import BrainFoundClassifier

    return BrainFoundClassifier(class_weight="balanced" if balanced else None)


def _describe(estimator: "FineTunedEncoder", n_rows: int, column: str) -> str:
    """Say what was learnt from how many, and how well."""
    classes = getattr(estimator, "classes_", None)
    measure = "R2" if classes is None else "AUC"
    what = "numbers" if classes is None else ", ".join(map(str, classes))
    lines = [f"label:   {column} of {n_rows} subjects ({what})"]
    held_out, probe = estimator.held_out_score_, estimator.probe_score_
    if math.isnan(held_out):
        lines.append("score:   unknown, which takes two people of each class")
    else:
        lines.append(
            f"score:   {measure} {held_out:.2f} of people that were held out; linear "
            f"probe {probe:.2f}"
        )
    steps = f"{estimator.n_steps_} steps" if estimator.n_steps_ else "the probe alone"
    lines.append(f"trained: {steps}")
    return "\n".join(lines)
