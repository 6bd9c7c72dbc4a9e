"""The command ``brainfeat predict``."""

__all__ = ["predict"]

from pathlib import Path
from typing import Annotated

import typer

from brainfeat.cli.log import begin_log
from brainfeat.cli.messages import (
    finish,
    format_summary,
    report_problems,
    report_total,
    show_outcomes,
)
from brainfeat.cli.options import (
    DeviceOption,
    InputsArgument,
    JobsOption,
    LogFileOption,
    ModalityOption,
    OverwriteOption,
    StrictOption,
    check_output,
)


def predict(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Folder that `finetune` wrote.")
    ],
    inputs: InputsArgument,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Table: .parquet, .csv or .tsv.")
    ],
    modality: ModalityOption = None,
    overwrite: OverwriteOption = False,
    strict: StrictOption = False,
    device: DeviceOption = "auto",
    jobs: JobsOption = 1,
    log_file: LogFileOption = None,
) -> None:
    """Predict the label of scans by a fine-tuned model, into a table.

    A row has the prediction and the probability of each class. Run the same command
    again to resume a run that was interrupted. Scans that fail are listed in
    OUT.failures.tsv, and the exit status is 1 then.
    """
    from brainfeat.finetuning.folder import describe_folder
    from brainfeat.finetuning.loading import load_model
    from brainfeat.models.device import resolve_device
    from brainfeat.subjects.manifest import collect_rows
    from brainfeat.tables.formats import find_format
    from brainfeat.tables.prediction_table import predict_to_table
    from brainfeat.tables.runs import RunOptions

    find_format(output)
    check_output(output)
    begin_log(str(resolve_device(device)), log_file)
    estimator = load_model(model).set_params(device=device)
    manifest = collect_rows(
        inputs, modalities=estimator.modalities_, wanted=modality or ()
    )
    report_problems(manifest)
    showing = show_outcomes(
        report_total(manifest), n_failed=len(manifest.problems), task="predicting"
    )
    with showing as show:
        summary = predict_to_table(
            manifest.rows,
            output,
            estimator,
            provenance=describe_folder(model, estimator),
            options=RunOptions(n_jobs=jobs, overwrite=overwrite, strict=strict),
            problems=manifest.problems,
            on_event=show,
        )
    finish(format_summary(summary), failed=bool(summary.failed))
