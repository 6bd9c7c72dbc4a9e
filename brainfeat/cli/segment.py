"""``brainfeat segment fit`` and ``brainfeat segment predict``."""

__all__ = ["segment_app", "segment_fit", "segment_predict"]

import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    from brainfeat.segmentation.estimator import SegmentationEstimator
    from brainfeat.subjects.manifest import Manifest

segment_app = typer.Typer(
    no_args_is_help=True, help="Train a segmentation model and apply it."
)


@segment_app.command("fit")
def segment_fit(
    manifest: Annotated[
        Path,
        typer.Argument(
            metavar="MANIFEST",
            help="CSV or TSV: a row a subject, columns of modalities and `label`.",
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
    device: DeviceOption = "auto",
    jobs: JobsOption = 1,
    log_file: LogFileOption = None,
) -> None:
    """Train on scans that have label maps.

    All scans and label maps are checked before the training starts.
    """
    from brainfeat.checkpoint.sharing import shared_checkpoint
    from brainfeat.models.device import resolve_device
    from brainfeat.segmentation.estimator import SegmentationEstimator
    from brainfeat.segmentation.label_maps import read_labelled_manifest
    from brainfeat.segmentation.names import NAMES_FILE, collect_names, write_names

    check_is_new(output)
    check_output(output, is_folder=True)
    begin_log(str(resolve_device(device)), log_file)
    estimator = SegmentationEstimator(
        checkpoint,
        freeze_encoder=not fine_tune,
        device=device,
        random_state=seed,
        n_jobs=jobs,
        verbose=1,
    )
    if steps is not None:
        estimator.set_params(n_steps=steps)
    known = shared_checkpoint(checkpoint).config.encoder.modalities
    subjects, label_maps = read_labelled_manifest(manifest, known, modality or ())
    names = collect_names(map(Path, label_maps))
    estimator.fit(subjects, label_maps)
    estimator.save(output)
    write_names(output / NAMES_FILE, estimator.classes_, names)
    lines = [f"classes: {', '.join(map(str, estimator.classes_))}"]
    if estimator.validation_scores_:
        best = max(estimator.validation_scores_)
        lines.append(f"dice:    {best:.2f}, of subjects that were held out")
    finish("\n".join([*lines, f"model:   {output}"]), failed=False)


@segment_app.command("predict")
def segment_predict(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Folder that `segment fit` wrote.")
    ],
    inputs: InputsArgument,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the label maps.")
    ],
    modality: ModalityOption = None,
    device: DeviceOption = "auto",
    strict: StrictOption = False,
    log_file: LogFileOption = None,
) -> None:
    """Segment scans, each in its own space.

    Run the same command again to resume. Scans that fail are listed in
    OUTPUT/failures.tsv, and the exit status is 1 then.
    """
    from brainfeat.models.device import resolve_device
    from brainfeat.segmentation.estimator import SegmentationEstimator
    from brainfeat.subjects.manifest import collect_rows

    # Label maps beside scans would make a BIDS folder of them in the next run.
    if output.resolve() in {Path(text).resolve() for text in inputs}:
        raise InputError(f"{output}: is an input, too; choose another folder.")
    check_output(output, is_folder=True)
    begin_log(str(resolve_device(device)), log_file)
    estimator = SegmentationEstimator.load(model).set_params(device=device)
    known = estimator.modalities_
    manifest = collect_rows(inputs, modalities=known, wanted=modality or ())
    report_problems(manifest)
    _write_label_maps(estimator, manifest, model, output, strict=strict)


def _write_label_maps(
    estimator: "SegmentationEstimator",
    manifest: "Manifest",
    model: Path,
    output: Path,
    *,
    strict: bool,
) -> None:
    from brainfeat.segmentation.derivatives import LabelMapFolder
    from brainfeat.segmentation.prediction import Segmentation, segment_subjects
    from brainfeat.subjects.failures import outdated_by, release_frames, write_failures

    start = time.perf_counter()
    network, classes = estimator.build_network(), estimator.classes_
    folder = LabelMapFolder.create(output, model, network.space, classes)
    counts: Counter[str] = Counter()
    failures = [*manifest.problems]
    outcomes = segment_subjects(
        network,
        classes,
        manifest.rows,
        Segmentation.to_label_map,
        n_jobs=1,
        is_done=folder.is_done,
        strict=strict,
    )
    showing = show_outcomes(
        report_total(manifest),
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
    listed = write_failures(
        output / "failures.tsv", failures, is_outdated=outdated_by(manifest.rows)
    )
    seconds = time.perf_counter() - start
    text = format_counts(counts["done"], counts["skipped"], len(failures))
    summary = f"{text} in {seconds:.0f} s\nlabel maps: {output}"
    if listed is not None:
        summary += f"\nfailures:   {listed}"
    finish(summary, failed=bool(failures))
