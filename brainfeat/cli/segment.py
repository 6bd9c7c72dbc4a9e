"""What ``brainfeat segment`` does once its options are read."""

__all__ = ["fit_from_manifest", "segment_rows"]

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import typer

from brainfeat.cli.console import show_run
from brainfeat.segmentation.derivatives import LabelMapFolder
from brainfeat.segmentation.estimator import SegmentationEstimator
from brainfeat.segmentation.folder import check_can_write
from brainfeat.segmentation.manifest import read_labelled_manifest
from brainfeat.segmentation.names import NAMES_FILE, collect_names, write_names
from brainfeat.segmentation.prediction import Segmentation, segment_subjects
from brainfeat.subjects.failures import outdated_by, release_frames, write_failures
from brainfeat.subjects.manifest import Manifest


def fit_from_manifest(
    manifest: Path,
    folder: Path,
    estimator: SegmentationEstimator,
    *,
    modalities: Sequence[str],
    wanted: Sequence[str] = (),
) -> SegmentationEstimator:
    """Train on the rows of a manifest, and save the model."""
    subjects, label_maps = read_labelled_manifest(manifest, modalities, wanted)
    names = collect_names(map(Path, label_maps))
    check_can_write(folder)
    estimator.fit(subjects, label_maps)
    estimator.save(folder)
    write_names(folder / NAMES_FILE, estimator.classes_, names)
    return estimator


def segment_rows(
    manifest: Manifest, model: Path, folder: Path, estimator: SegmentationEstimator
) -> bool:
    """Segment rows; return whether some failed."""
    start = time.perf_counter()
    network = estimator.build_network()
    maps = LabelMapFolder.create(folder, model, network.space, estimator.classes_)
    counts: Counter[str] = Counter()
    failures = [*manifest.problems]
    outcomes = segment_subjects(
        network,
        estimator.classes_,
        manifest.rows,
        Segmentation.to_label_map,
        n_jobs=1,
        is_done=maps.is_done,
    )
    with (
        closing(outcomes),
        show_run(
            len(manifest.rows), task="segmenting", kept="segmented already"
        ) as display,
    ):
        for outcome in map(maps.write, outcomes):
            counts[outcome.status] += 1
            if outcome.error is not None:
                release_frames(outcome.error)
                failures.append(outcome)
            display(outcome)
    failures_file = write_failures(
        folder / "failures.tsv", failures, is_outdated=outdated_by(manifest.rows)
    )
    seconds = time.perf_counter() - start
    typer.echo(
        f"{counts['done']} done, {counts['skipped']} skipped, {len(failures)} failed "
        f"in {seconds:.0f} s\nlabel maps: {folder}"
    )
    if failures_file is not None:
        typer.echo(f"failures:   {failures_file}")
    return bool(failures)
