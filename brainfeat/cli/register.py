"""``brainfeat register``."""

__all__ = ["register"]

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    LogFileOption,
    ModalityOption,
    StrictOption,
    check_output,
)
from brainfeat.exceptions import InputError

if TYPE_CHECKING:
    from brainfeat.registration.derivatives import RegistrationFolder
    from brainfeat.registration.estimator import RegistrationEstimator
    from brainfeat.subjects.manifest import Manifest
    from brainfeat.subjects.subject import Outcome, Subject


def register(
    fixed: Annotated[
        str,
        typer.Argument(
            metavar="FIXED", help="Scan to register to, or template: MNI152."
        ),
    ],
    moving: Annotated[
        list[str],
        typer.Argument(
            metavar="MOVING",
            help="Images, globs, folders, a CSV or TSV manifest, or a BIDS folder.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write to.")],
    checkpoint: CheckpointOption = "brainfound-tiny",
    modality: ModalityOption = None,
    affine: Annotated[
        bool, typer.Option("--affine", help="Leave out the deformation.")
    ] = False,
    device: DeviceOption = "auto",
    strict: StrictOption = False,
    log_file: LogFileOption = None,
) -> None:
    """Register scans of any contrast to a fixed one, each to its grid.

    OUTPUT has each scan on the fixed grid, its transform there and back in the files of
    ITK, and registrations.csv. Run the same command again to resume. Scans that fail
    are listed in OUTPUT/failures.tsv, and the exit status is 1 then.
    """
    from brainfeat.checkpoint.sharing import shared_checkpoint
    from brainfeat.models.device import resolve_device
    from brainfeat.registration.estimator import RegistrationEstimator
    from brainfeat.subjects.manifest import collect_rows

    if output.resolve() in {Path(text).resolve() for text in (fixed, *moving)}:
        raise InputError(f"{output}: is an input, too; choose another folder.")
    check_output(output, is_folder=True)
    begin_log(str(resolve_device(device)), log_file)
    modalities = shared_checkpoint(checkpoint).config.encoder.modalities
    manifest = collect_rows(moving, modalities=modalities, wanted=modality or ())
    report_problems(manifest)
    estimator = RegistrationEstimator(
        checkpoint, deformation="affine" if affine else "deformable", device=device
    ).fit(fixed)
    folder = _open_folder(output, fixed, estimator)
    failures, summary = _register_all(folder, estimator, manifest, strict=strict)
    table = folder.write_table()
    if table is not None:
        summary += f"\ntable:    {table}"
    finish(summary, failed=bool(failures))


def _open_folder(
    output: Path, fixed: str, estimator: "RegistrationEstimator"
) -> "RegistrationFolder":
    from brainfeat.io.hashing import known_hash
    from brainfeat.registration.derivatives import RegistrationFolder
    from brainfeat.registration.estimator import TEMPLATE

    settings = {
        "Fixed": fixed,
        "FixedSHA256": None if fixed == TEMPLATE else known_hash(fixed),
        "CheckpointSHA256": estimator.checkpoint_fingerprint_,
        "Deformation": estimator.deformation,
    }
    return RegistrationFolder.create(output, fixed, settings)


def _register_all(
    folder: "RegistrationFolder",
    estimator: "RegistrationEstimator",
    manifest: "Manifest",
    *,
    strict: bool,
) -> tuple[list["Outcome[Any]"], str]:
    """Register each scan; return what failed, and the summary."""
    from brainfeat.subjects.failures import outdated_by, release_frames, write_failures

    start, counts = time.perf_counter(), Counter[str]()
    failures = [*manifest.problems]
    showing = show_outcomes(
        report_total(manifest),
        n_failed=len(failures),
        task="registering",
        if_skipped="registered already",
    )
    with showing as show:
        for subject in manifest.rows:
            outcome = _register_one(folder, estimator, subject, strict=strict)
            counts[outcome.status] += 1
            if outcome.error is not None:
                release_frames(outcome.error)
                failures.append(outcome)
            show(outcome)
    listed = write_failures(
        folder.folder / "failures.tsv", failures, is_outdated=outdated_by(manifest.rows)
    )
    text = format_counts(counts["done"], counts["skipped"], len(failures))
    summary = (
        f"{text} in {time.perf_counter() - start:.0f} s\nfolder:   {folder.folder}"
    )
    if listed is not None:
        summary += f"\nfailures: {listed}"
    return failures, summary


def _register_one(
    folder: "RegistrationFolder",
    estimator: "RegistrationEstimator",
    subject: "Subject",
    *,
    strict: bool,
) -> "Outcome[Any]":
    from brainfeat.exceptions import QualityError
    from brainfeat.subjects.failures import add_context
    from brainfeat.subjects.subject import Outcome

    try:
        if folder.is_done(subject):
            return Outcome(subject)
        pair = estimator.register_pair(subject)
        if strict and pair.quality.doubt:
            raise QualityError(f"in doubt: {pair.quality.doubt}")
    except Exception as error:  # one bad scan never stops the others
        return Outcome(subject, error=add_context(error, subject))
    folder.write(subject, pair)
    return Outcome(subject, pair)
