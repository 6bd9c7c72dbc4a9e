"""What ``brainfeat segment`` does once its options are read."""

__all__ = [
    "SegmentSummary",
    "fit_from_manifest",
    "format_segments",
    "segment_app",
    "segment_fit",
    "segment_predict",
    "segment_rows",
]

import csv
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from brainfeat.cli.console import show_run
from brainfeat.cli.messages import finish, report_problems
from brainfeat.cli.options import (
    CheckpointOption,
    DeviceOption,
    InputsArgument,
    JobsOption,
    ModalityOption,
    SeedOption,
    StepsOption,
    check_is_new,
)
from brainfeat.exceptions import InputError, brief_reason
from brainfeat.io.atomic import atomic_write, write_json
from brainfeat.io.dataset_description import check_description, describe_derivatives
from brainfeat.io.delimited_rows import write_rows
from brainfeat.io.image_names import image_stem
from brainfeat.io.json_files import read_json_object
from brainfeat.io.paths import expand_home
from brainfeat.subjects.bids.index import parse_bids_name
from brainfeat.subjects.failures import (
    describe_failure,
    outdated_by,
    release_frames,
    write_failures,
)

if TYPE_CHECKING:
    from nibabel import Nifti1Image

    from brainfeat.segmentation.estimator import SegmentationEstimator
    from brainfeat.subjects.manifest import Manifest
    from brainfeat.subjects.subject import Outcome, Subject

_NAMES, _DESCRIPTION, _FAILURES = "dseg.tsv", "dataset_description.json", "failures.tsv"
_DATASET, _LABEL = "Segmentations", "label"
_MADE_BY, _SOURCES, _INPUT = "ModelSHA256", "Sources", "InputSHA256"


_LOGGER = logging.getLogger(__name__)


segment_app = typer.Typer(
    no_args_is_help=True, help="Train a segmentation model and apply it."
)


@segment_app.command("fit")
def segment_fit(
    manifest: Annotated[
        Path,
        typer.Argument(
            help="CSV or TSV table: a row a subject, columns of modalities and `label`."
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
) -> None:
    """Train on scans that have label maps.

    All scans and label maps are checked before the training starts.
    """
    from brainfeat.checkpoint.sharing import shared_checkpoint
    from brainfeat.segmentation.estimator import SegmentationEstimator

    check_is_new(output)
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
    fit_from_manifest(
        manifest, output, estimator, modalities=known, wanted=modality or ()
    )
    typer.echo(f"classes: {', '.join(map(str, estimator.classes_))}")
    if estimator.validation_scores_:
        best = max(estimator.validation_scores_)
        typer.echo(f"dice:    {best:.2f}, of subjects that were held out")
    typer.echo(f"model:   {output}")


@segment_app.command("predict")
def segment_predict(
    model: Annotated[Path, typer.Argument(help="Folder that `segment fit` wrote.")],
    inputs: InputsArgument,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the label maps.")
    ],
    modality: ModalityOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Draw label maps, each in its scan's own space.

    The same command again resumes. Scans that fail are listed in
    OUTPUT/failures.tsv, and the exit status is 1 then.
    """
    from brainfeat.segmentation.estimator import SegmentationEstimator
    from brainfeat.subjects.manifest import collect_rows

    _check_is_no_input(output, inputs)
    estimator = SegmentationEstimator.load(model).set_params(device=device)
    manifest = collect_rows(
        inputs, modalities=estimator.modalities_, wanted=modality or ()
    )
    report_problems(manifest)
    summary = segment_rows(manifest, model, output, estimator)
    finish(format_segments(summary), failed=bool(summary.failed))


def _check_is_no_input(folder: Path, inputs: list[str]) -> None:
    # Label maps beside scans would make a BIDS folder of them in the next run.
    if folder.resolve() in {Path(text).resolve() for text in inputs}:
        raise InputError(f"{folder}: is an input, too; choose another folder.")


class SegmentSummary(NamedTuple):
    """What became of all rows.

    Attributes
    ----------
    done, skipped, failed : int
        Numbers of rows; skipped ones had been segmented by the same model.
    seconds : float
        Time that the run took.
    folder : Path
        Where the label maps are.
    failures : Path or None
        As for `RunSummary`.
    """

    done: int
    skipped: int
    failed: int
    seconds: float
    folder: Path
    failures: Path | None


def fit_from_manifest(
    manifest: Path,
    folder: Path,
    estimator: "SegmentationEstimator",
    *,
    modalities: Sequence[str],
    wanted: Sequence[str] = (),
) -> "SegmentationEstimator":
    """Train on the rows of a manifest, and save the model.

    Parameters
    ----------
    manifest : Path
        CSV or TSV table with a column a modality and a column ``label``.
    folder : Path
        Folder of the model; new or empty.
    estimator : SegmentationEstimator
        With its parameters.
    modalities : sequence of str
        Modalities that the checkpoint knows.
    wanted : sequence of str
        Modalities to use; none means all.

    Returns
    -------
    SegmentationEstimator
        Fitted.

    Raises
    ------
    InputError
        If a row has no image or no label map, an image comes twice, the names of the
        classes cannot be read, or the folder cannot be written.
    """
    import pandas as pd

    from brainfeat.subjects.manifest import collect_rows

    if manifest.suffix not in {".csv", ".tsv"}:
        raise InputError(f"{manifest}: expected a manifest that ends in .csv or .tsv.")
    rows = collect_rows([str(manifest)], modalities=modalities, wanted=wanted)
    for problem in rows.problems:
        raise InputError(describe_failure(problem))
    for image in rows.duplicates:
        raise InputError(f"{manifest}: expected each image once, got {image} again.")
    known = dict.fromkeys(name for row in rows.rows for name in row.metadata)
    if rows.rows and _LABEL not in known:
        raise InputError(
            f"{manifest}: expected a column named {_LABEL}, got "
            f"{', '.join(known) or 'none beside the images'}."
        )
    label_maps = [_label_map(row, manifest) for row in rows.rows]
    names = _find_names([*map(Path, label_maps)])
    _check_can_write(folder)
    images = [dict(row.images) for row in rows.rows]
    people = [row.participant_id for row in rows.rows]
    estimator.fit(pd.Series(images, index=people), label_maps)
    estimator.save(folder)
    _write_names(folder / _NAMES, estimator, names)
    return estimator


def segment_rows(
    manifest: "Manifest", model: Path, folder: Path, estimator: "SegmentationEstimator"
) -> SegmentSummary:
    """Segment rows; what fails is noted, the rest goes on.

    Parameters
    ----------
    manifest : Manifest
        Rows, and inputs that are none.
    model : Path
        Folder of the model.
    folder : Path
        Where label maps go, with BIDS names: as they lie in a BIDS folder if the image
        lies in one.
    estimator : SegmentationEstimator
        From the folder of the model.

    Returns
    -------
    SegmentSummary
        Counts, and where the files are.

    Raises
    ------
    InputError
        If the folder holds another dataset, a model, or names of other classes, or
        cannot be written.
    """
    from brainfeat.checkpoint.weight_files import file_sha256
    from brainfeat.segmentation.folder import MODEL_NAME

    start = time.perf_counter()
    check_description(folder, _DATASET)
    if (folder / MODEL_NAME).exists():
        raise InputError(f"{folder}: holds a model; choose another folder.")
    if (folder / _NAMES).exists() and not (folder / _DESCRIPTION).exists():
        raise InputError(
            f"{folder / _NAMES}: exists and is not ours; choose another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _DESCRIPTION, describe_derivatives(_DATASET))
    _write_names(folder / _NAMES, estimator, _read_names(model / _NAMES))
    # The hashes of decoder and encoder are in it, and were checked at loading.
    fingerprint = file_sha256(model / MODEL_NAME)
    counts = {"done": 0, "skipped": 0, "failed": 0}
    failures = [*manifest.problems]
    with show_run(
        len(manifest.rows), task="segmenting", kept="segmented already"
    ) as display:
        for event in _segment(manifest.rows, folder, estimator, fingerprint):
            counts[event.status] += 1
            if event.error is not None:
                release_frames(event.error)
                failures.append(event)
            display(event)
    return SegmentSummary(
        counts["done"],
        counts["skipped"],
        len(failures),
        time.perf_counter() - start,
        folder,
        write_failures(
            folder / _FAILURES, failures, is_outdated=outdated_by(manifest.rows)
        ),
    )


def format_segments(summary: SegmentSummary) -> str:
    """Say what a run did, and where its files are.

    Parameters
    ----------
    summary : SegmentSummary
        Counts and files.

    Returns
    -------
    str
        Lines for a terminal.

    Examples
    --------
    >>> print(format_segments(SegmentSummary(3, 1, 0, 12.0, Path("maps"), None)))
    3 done, 1 skipped, 0 failed in 12 s
    label maps: maps
    """
    counts = f"{summary.done} done, {summary.skipped} skipped, {summary.failed} failed"
    lines = [f"{counts} in {summary.seconds:.0f} s", f"label maps: {summary.folder}"]
    if summary.failures is not None:
        lines.append(f"failures:   {summary.failures}")
    return "\n".join(lines)


def _segment(
    rows: "Sequence[Subject]",
    folder: Path,
    estimator: "SegmentationEstimator",
    fingerprint: str,
) -> "Iterator[Outcome[Any]]":
    from brainfeat.checkpoint.sharing import shared_checkpoint
    from brainfeat.io.hashing import hash_images
    from brainfeat.models.device import resolve_device
    from brainfeat.models.threads import MOST_SEGMENTED_AT_ONCE, map_in_threads
    from brainfeat.preprocessing.preprocessor import Preprocessor

    by_target: dict[Path, list[Subject]] = {}
    for row in rows:
        by_target.setdefault(folder / _output_name(row), []).append(row)
    config = shared_checkpoint(estimator.checkpoint).config
    preprocessor = Preprocessor.from_dict(config.preprocessing)

    def make_origin(row: "Subject") -> dict[str, Any]:
        files = preprocessor.input_files(row.paths, config.encoder.modalities)
        return {
            _SOURCES: sorted(row.images.values()),
            _INPUT: hash_images(files),
            _MADE_BY: fingerprint,
        }

    with map_in_threads(
        lambda item: [*_segment_alike(*item, estimator, make_origin)],
        by_target.items(),
        device=resolve_device(estimator.device),
        max_threads=MOST_SEGMENTED_AT_ONCE,
    ) as segmented:
        for events in segmented:
            yield from events


def _segment_alike(
    target: Path,
    rows: "Sequence[Subject]",
    estimator: "SegmentationEstimator",
    make_origin: "Callable[[Subject], dict[str, Any]]",
) -> "Iterator[Outcome[Any]]":
    from brainfeat.subjects.subject import Outcome

    # The first of the rows that can be segmented takes the target; the others fail.
    taken: Subject | None = None
    for row in rows:
        image = None
        try:
            if taken is not None:
                raise InputError(
                    f"{row.image}: {target.name} is the label map of {taken.image} in "
                    "this run; a manifest has a row a scan with all of its images, "
                    "and a session_id where a participant has several."
                )
            origin = make_origin(row)
            if not _has_segmented(target, origin):
                (image,) = estimator.predict([dict(row.images)])
        except Exception as error:  # whatever a damaged file makes a library raise
            yield Outcome(row, error=error)
            continue
        taken = row
        _write(target, image, origin)
        yield Outcome(row, image)


def _has_segmented(target: Path, origin: Mapping[str, Any]) -> bool:
    """Whether a label map is there, of the same model and images, wherever they lie.

    Raises
    ------
    InputError
        If a file of its name is another's, or another scan's.
    """
    found = read_json_object(_sidecar(target)) or {}
    if _MADE_BY not in found and (target.exists() or _sidecar(target).exists()):
        raise InputError(f"{target}: exists and is not ours; choose another folder.")
    if not target.exists() or _SOURCES not in found:
        return False
    if {**found, _SOURCES: origin[_SOURCES]} == origin:
        return True
    # A scan may be corrected, or moved, but both is another: 001/T1.nii and 002/T1.nii.
    is_moved = set(found[_SOURCES]).isdisjoint(origin[_SOURCES])
    if is_moved and found[_INPUT] != origin[_INPUT]:
        raise InputError(
            f"{target}: exists and is the label map of {found[_SOURCES][0]}; choose "
            f"another folder for {origin[_SOURCES][0]}."
        )
    return False


def _write(
    target: Path, image: "Nifti1Image | None", origin: Mapping[str, Any]
) -> None:
    """Write a label map, if there is a new one, and where it comes from.

    Raises
    ------
    InputError
        If it cannot be written: nor can those of the rows to come.
    """
    from brainfeat.io.volumes import write_image

    sidecar = _sidecar(target)
    try:
        if image is not None:
            # What is cut off here is ours all the same, and is drawn again.
            write_json(sidecar, {_MADE_BY: origin[_MADE_BY]})
            write_image(image, target)
        if read_json_object(sidecar) != origin:
            write_json(sidecar, origin)
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written ({brief_reason(error)}); "
            "the same command again goes on."
        ) from error


def _sidecar(target: Path) -> Path:
    return target.with_name(target.name.replace(".nii.gz", ".json"))


def _output_name(row: "Subject") -> Path:
    """Name a label map after its image: ``sub-01_T1w`` gives ``sub-01_dseg``."""
    image = Path(row.image)
    stem = image_stem(image)
    name = parse_bids_name(stem)
    session = name.session_id
    if session is None and row.session_id:
        session = _safe(f"ses-{row.session_id.removeprefix('ses-')}")
    if name.participant_id is None:
        text = "_".join(filter(None, (row.participant_id, session)))
        return Path(f"{_safe(text) or 'image'}_dseg.nii.gz")
    stem = stem.removesuffix(f"_{name.suffix}")
    if session is not None and name.session_id is None:
        first, *rest = stem.split("_")
        stem = "_".join([first, session, *rest])
    parts = [name.participant_id, *([session] if session else [])]
    is_bids = image.parent.parts[-len(parts) - 1 :] == (*parts, "anat")
    place = Path(*parts, "anat") if is_bids else Path()
    return place / f"{stem}_dseg.nii.gz"


def _safe(text: str) -> str:
    """Make a part of a file name that stays in its folder."""
    return re.sub(r"[^\w.+-]+", "-", text).lstrip(".")


def _check_can_write(folder: Path) -> None:
    """Try before a training, which takes minutes, and leave no trace.

    Raises
    ------
    InputError
        If the folder cannot be written.
    """
    parents = (folder, *folder.absolute().parents)
    place = next(path for path in parents if os.path.lexists(path))
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({brief_reason(error)})."
        ) from error


def _label_map(row: "Subject", manifest: Path) -> str:
    text = row.metadata.get(_LABEL)
    if not text:
        raise InputError(
            f"{manifest}: expected a path in column {_LABEL!r} for {row.image}, "
            "got none."
        )
    path = expand_home(text)
    beside = manifest.parent / path
    return str(beside if beside.exists() else path)


def _find_names(label_maps: Sequence[Path]) -> Mapping[int, str]:
    """Read the tables of names that belong to label maps.

    Warns of labels with two names: that of one cohort may be another structure's in
    another.
    """
    names: dict[int, tuple[str, Path]] = {}
    clashes: dict[int, tuple[Path, str]] = {}
    for table in dict.fromkeys(filter(None, map(_find_table, label_maps))):
        for label, name in _read_names(table).items():
            first, _ = names.setdefault(label, (name, table))
            if name.casefold() != first.casefold():
                clashes.setdefault(label, (table, name))
    if clashes:
        label, (table, name) = next(iter(clashes.items()))
        more = f" ({len(clashes) - 1} more like it)" if len(clashes) > 1 else ""
        _LOGGER.warning(
            "%s: label %d is %s there, but %s in %s; they are learnt as one%s",
            *(table, label, name, *names[label], more),
        )
    return {label: name for label, (name, _) in names.items()}


def _find_table(label_map: Path) -> Path | None:
    """Find the table that BIDS keeps beside a label map or above it."""
    own = label_map.parent / f"{image_stem(label_map)}.tsv"
    above = [parent / _NAMES for parent in label_map.resolve().parents[:4]]
    return next((path for path in (own, *above) if path.is_file()), None)


def _read_names(path: Path) -> Mapping[int, str]:
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [*csv.DictReader(file, delimiter="\t")]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path}: not a readable table ({brief_reason(error)})."
        ) from error
    return {
        int(line["index"]): line["name"]
        for line in lines
        if line.get("name") and re.fullmatch(r"-?\d+", line.get("index") or "")
    }


def _write_names(
    path: Path, estimator: "SegmentationEstimator", names: Mapping[int, str]
) -> None:
    with (
        atomic_write(path) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        defaults = {0: "background", **names}
        labels = map(int, estimator.classes_)
        rows = ((label, defaults.get(label, f"class_{label}")) for label in labels)
        write_rows(file, [("index", "name"), *rows], "\t")
