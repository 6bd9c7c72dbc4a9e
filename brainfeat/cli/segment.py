"""``brainfeat segment fit`` and ``brainfeat segment predict``."""

__all__ = ["segment_app", "segment_fit", "segment_predict"]

import math
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from brainfeat.cli.log import begin_log
from brainfeat.cli.messages import (
    finish,
    format_counts,
    report_problems,
    report_total,
    show_outcomes,
)
from brainfeat.cli.options import (
    CheckpointOption,
    DeviceOption,
    InputsArgument,
    JobsOption,
    LogFileOption,
    ModalityOption,
    SeedOption,
    StepsOption,
    StrictOption,
    check_is_new,
    check_output,
)
from brainfeat.exceptions import InputError

if TYPE_CHECKING:
    from brainfeat.segmentation.derivatives import LabelMapFolder
    from brainfeat.segmentation.estimator import SegmentationEstimator
    from brainfeat.segmentation.network import SegmentationNetwork
    from brainfeat.subjects.manifest import Manifest
    from brainfeat.subjects.subject import Outcome

WhereOption = Annotated[
    Literal["brain", "head"],
    typer.Option(help="Where structures may be: in the brain that is found, or not."),
]
GridOption = Annotated[
    str,
    typer.Option(
        help="Grid of the maps: label (on which label maps were drawn), first (image), "
        "or a modality."
    ),
]

segment_app = typer.Typer(
    no_args_is_help=True,
    help="Train a segmentation model and apply it. One is bundled: "
    "brainfeat segment predict brainfound-tiny-anatomy SCANS -o FOLDER.",
)


@segment_app.command("fit")
def segment_fit(
    manifest: Annotated[
        Path,
        typer.Argument(
            metavar="MANIFEST",
            help="CSV or TSV: a row a subject, columns of modalities and `label`, or a "
            "column of masks for each structure.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the model.")
    ],
    checkpoint: CheckpointOption = "brainfound-tiny",
    modality: ModalityOption = None,
    steps: StepsOption = None,
    fine_tune: Annotated[
        bool, typer.Option("--fine-tune", help="Train the encoder, too.")
    ] = False,
    seed: SeedOption = 0,
    names: Annotated[
        list[str] | None,
        typer.Option(
            help="Names of labels: 1=lesion, or a table with columns index and name."
        ),
    ] = None,
    where: WhereOption = "brain",
    grid: GridOption = "label",
    folds: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Folds to validate by; 0 takes less time."
        ),
    ] = 3,
    device: DeviceOption = "auto",
    jobs: JobsOption = 1,
    log_file: LogFileOption = None,
) -> None:
    """Train on scans that have label maps, and tell the Dice of held-out people.

    All scans and label maps are checked before the training starts.
    """
    from brainfeat.checkpoint.sharing import shared_checkpoint
    from brainfeat.models.device import resolve_device
    from brainfeat.segmentation.estimator import SegmentationEstimator
    from brainfeat.segmentation.manifest import read_labelled_manifest
    from brainfeat.segmentation.names import NAMES_FILE, parse_names, write_names

    given = parse_names(names or [])
    check_is_new(output)
    check_output(output, is_folder=True)
    begin_log(str(resolve_device(device)), log_file)
    estimator = SegmentationEstimator(
        checkpoint,
        freeze_encoder=not fine_tune,
        device=device,
        random_state=seed,
        where=where,
        grid=grid,
        n_folds=folds,
        n_jobs=jobs,
        verbose=1,
    )
    if steps is not None:
        estimator.set_params(n_steps=steps)
    known = shared_checkpoint(checkpoint).config.encoder.modalities
    labelled = read_labelled_manifest(manifest, known, modality or ())
    estimator.fit(labelled.rows, labelled.label_maps, names=labelled.names | given)
    estimator.save(output)
    write_names(output / NAMES_FILE, estimator.classes_, estimator.names_)
    finish(f"{_describe_fit(estimator)}\nmodel:   {output}", failed=False)


def _describe_fit(estimator: "SegmentationEstimator") -> str:
    """Say what was learnt, how well, and where maps will lie."""
    named = (f"{label} {name}" for label, name in estimator.names_.items())
    lines = [f"classes: {', '.join(named)}"]
    if math.isnan(estimator.held_out_score_):
        lines.append("dice:    unknown, which takes the scans of two people or more")
    else:
        scores = estimator.held_out_scores_.items()
        by_class = ", ".join(f"{n} {s:.2f}" for n, s in scores if not math.isnan(s))
        lines.append(
            f"dice:    {estimator.held_out_score_:.2f}, of people that were held out "
            f"({by_class})"
        )
    choices = estimator.modality_scores_.items()
    fewer = [f"{name} {score:.2f}" for name, score in choices if score == score]
    if len(fewer) > 1:
        lines.append(f"         by modalities: {', '.join(fewer)}")
    grid = estimator.prediction_settings().grid or "the first image"
    lines.append(f"maps:    in the {estimator.where}, on the grid of {grid}")
    return "\n".join(lines)


@segment_app.command("predict")
def segment_predict(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="Folder that `segment fit` wrote, or brainfound-tiny-anatomy: 31 "
            "structures without any labels.",
        ),
    ],
    inputs: InputsArgument,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the label maps.")
    ],
    modality: ModalityOption = None,
    where: Annotated[
        Literal["brain", "head"] | None,
        typer.Option(help="Where structures may be; default: the model's choice."),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(
            help="Grid of the maps: first or a modality; default: the labels'."
        ),
    ] = None,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Write maps of the uncertainty, too.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Write OUTPUT/report.html.")
    ] = True,
    device: DeviceOption = "auto",
    strict: StrictOption = False,
    log_file: LogFileOption = None,
) -> None:
    """Segment scans, each in its own space.

    OUTPUT has a label map of each scan, volumes.csv and report.html. Run the same
    command again to resume. Scans that fail are listed in OUTPUT/failures.tsv, and the
    exit status is 1 then.
    """
    from brainfeat.models.device import resolve_device
    from brainfeat.segmentation.derivatives import LabelMapFolder
    from brainfeat.segmentation.estimator import SegmentationEstimator
    from brainfeat.segmentation.locate import locate_model
    from brainfeat.subjects.manifest import collect_rows

    # Label maps beside scans would make a BIDS folder of them in the next run.
    if output.resolve() in {Path(text).resolve() for text in inputs}:
        raise InputError(f"{output}: is an input, too; choose another folder.")
    check_output(output, is_folder=True)
    begin_log(str(resolve_device(device)), log_file)
    estimator = SegmentationEstimator.load(model).set_params(device=device)
    if where is not None:
        estimator.set_params(where=where)
    if grid is not None:
        estimator.set_params(grid=grid)
    manifest = collect_rows(
        inputs, modalities=estimator.modalities_, wanted=modality or ()
    )
    report_problems(manifest)
    network, settings = estimator.build_network(), estimator.prediction_settings()
    folder = LabelMapFolder.create(
        output,
        locate_model(model),
        network.space,
        settings,
        estimator.names_,
        uncertainty=uncertainty,
    )
    run = _Run(folder, estimator, network, manifest, strict)
    failures, summary = run.segment()
    rows = folder.read_rows()
    if rows:
        summary += f"\nvolumes:    {folder.write_volumes(rows)}"
    if rows and report:
        from brainfeat.reporting.segmentation_report import report_on_segmentations

        path = report_on_segmentations(output, model, estimator, rows, failures)
        summary += f"\nreport:     {path}"
    finish(summary, failed=bool(failures))


@dataclass(frozen=True, eq=False)
class _Run:
    """Segment all scans of a manifest into a folder."""

    folder: "LabelMapFolder"
    estimator: "SegmentationEstimator"
    network: "SegmentationNetwork"
    manifest: "Manifest"
    strict: bool

    def segment(self) -> tuple[list["Outcome[Any]"], str]:
        """Write label maps; return what failed, and the summary."""
        from brainfeat.subjects.failures import outdated_by, write_failures

        start, output = time.perf_counter(), self.folder.folder
        failures, counts = [*self.manifest.problems], Counter[str]()
        self._write_label_maps(failures, counts)
        listed = write_failures(
            output / "failures.tsv",
            failures,
            is_outdated=outdated_by(self.manifest.rows),
        )
        seconds = time.perf_counter() - start
        text = format_counts(counts["done"], counts["skipped"], len(failures))
        summary = f"{text} in {seconds:.0f} s\nlabel maps: {output}"
        if listed is not None:
            summary += f"\nfailures:   {listed}"
        return failures, summary

    def _write_label_maps(
        self, failures: list["Outcome[Any]"], counts: Counter[str]
    ) -> None:
        from brainfeat.segmentation.derivatives import SegmentedScan
        from brainfeat.segmentation.prediction import segment_subjects
        from brainfeat.subjects.failures import release_frames

        folder, estimator = self.folder, self.estimator
        outcomes = segment_subjects(
            self.network,
            estimator.classes_,
            self.manifest.rows,
            lambda item: SegmentedScan.of(
                item, estimator.names_, uncertainty=folder.uncertainty
            ),
            settings=folder.settings,
            n_jobs=1,
            is_done=folder.is_done,
            strict=self.strict,
        )
        showing = show_outcomes(
            report_total(self.manifest),
            n_failed=len(failures),
            task="segmenting",
            if_skipped="segmented already",
        )
        with closing(outcomes), showing as show:
            for outcome in map(folder.write, outcomes):
                counts[outcome.status] += 1
                if outcome.error is not None:
                    release_frames(outcome.error)
                    failures.append(outcome)
                show(outcome)
