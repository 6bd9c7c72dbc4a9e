"""Measure the accuracy of the alignment to MNI152, and its effect on a classifier.

On a simulated cohort it prints, for each modality, the errors of the aligned brain of
the template (distance of centres, volume, overlap), that of the mask's volume, and the
lowest similarity to the head model. The true brain is that of masks: the space within
its closed outline, with the fluid in sulci and cisterns; the volume over the labelled
voxels alone is printed beside. Then it embeds the T1w scans with each kind of alignment
and prints the time per volume and the cross-validated AUC of patients against controls,
with its standard error over splits.

    python examples/benchmarks/alignment.py [N_SUBJECTS]
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from head_scans import close_gaps, litres, read_mask
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from brainfeat import BrainFoundEmbedder, Preprocessor, Volume, simulate_cohort
from brainfeat.io.volumes import read_volume
from brainfeat.preprocessing.alignment import align_to_template
from brainfeat.preprocessing.head_model import load_depth
from brainfeat.preprocessing.resampling import downsample, resample

MODALITIES = ("T1w", "T2w", "FLAIR")
PREPROCESSOR = Preprocessor()


class Brain(NamedTuple):
    """The true brain of a subject, as booleans."""

    labels: Volume  # labelled voxels alone
    outline: Volume  # with the fluid between them


def main(n_subjects: int = 60) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cohort = simulate_cohort(
            folder, n_subjects=n_subjects, modalities=MODALITIES, random_state=11
        )
        print_errors(cohort)
        print_scores(cohort)


def print_errors(cohort: pd.DataFrame) -> None:
    print(f"{len(cohort)} subjects: median, 90th percentile and worst")
    print(
        f"{'modality':<10} {'centre, mm':>18} {'volume error, %':>18} {'1 - Dice':>18} "
        f"{'mask error, %':>18}  mask over brain, over labels"
    )
    brains = [read_brain(label_map) for label_map in cohort["dseg"]]
    lowest = []
    for modality in MODALITIES:
        scans = cohort[modality]
        alignments = [align_to_template(read_volume(s)) for s in scans]
        lowest.append(f"{modality} {min(a.similarity for a in alignments):.2f}")
        errors = [
            measure_errors(alignment.affine, brain.outline)
            for alignment, brain in zip(alignments, brains, strict=True)
        ]
        found = np.array([mask_litres(scan, modality) for scan in scans])
        over = found / [litres(brain.outline) for brain in brains]
        over_labels = found / [litres(brain.labels) for brain in brains]
        centre, volume, overlap = np.percentile(errors, [50, 90, 100], axis=0).T
        mask = 100 * np.percentile(np.abs(over - 1.0), [50, 90, 100])
        print(
            f"{modality:<10} {row(centre, 1):>18} {row(100 * volume, 0):>18} "
            f"{row(overlap, 2):>18} {row(mask, 0):>18}  "
            f"{np.median(over):.2f} {np.median(over_labels):.2f}"
        )
    print(f"lowest similarity to the head model: {', '.join(lowest)}")


def mask_litres(scan: str, modality: str) -> float:
    volumes = {modality: read_volume(scan)}
    subject = PREPROCESSOR.apply(volumes, (modality,))
    return litres(Volume(subject.foreground, subject.geometry))


def row(values: NDArray[np.float64], decimals: int) -> str:
    return " ".join(f"{value:5.{decimals}f}" for value in values)


def measure_errors(
    affine: NDArray[np.float64], outline: Volume
) -> tuple[float, float, float]:
    """Distance of centres in mm, relative error of volume, and 1 - Dice."""
    fraction = Volume(outline.data.astype(np.float32), outline.geometry)
    true = downsample(fraction, 2.0)
    depth = resample(
        load_depth(), true.geometry, np.linalg.inv(affine), outside=-np.inf
    )
    brain, template = true.data >= 0.5, depth >= 0.0
    centres = [np.argwhere(mask).mean(axis=0) for mask in (brain, template)]
    shift = np.array(true.geometry.spacing) * (centres[1] - centres[0])
    overlap = 2.0 * np.sum(brain & template) / (brain.sum() + template.sum())
    volume = abs(template.sum() / brain.sum() - 1.0)
    return float(np.linalg.norm(shift)), float(volume), float(1.0 - overlap)


def read_brain(label_map: str) -> Brain:
    labels = read_mask(Path(label_map))
    return Brain(labels, close_gaps(labels))


def print_scores(cohort: pd.DataFrame) -> None:
    splits = StratifiedShuffleSplit(20, train_size=2 / 3, random_state=0)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000))
    print(f"{splits.get_n_splits()} splits by subject")
    print(f"{'alignment':<10} {'s/volume':>8} {'AUC':>6} {'SE':>6}")
    for alignment in ("none", "rigid", "affine"):
        embedder = BrainFoundEmbedder(
            preprocessor=Preprocessor(alignment=alignment), n_jobs=2
        )
        start = time.perf_counter()
        features = embedder.fit_transform(cohort["T1w"])
        seconds = (time.perf_counter() - start) / len(cohort)
        scores = cross_val_score(
            probe, features, cohort["diagnosis"], cv=splits, scoring="roc_auc"
        )
        error = scores.std(ddof=1) / np.sqrt(len(scores))
        print(f"{alignment:<10} {seconds:8.2f} {scores.mean():6.3f} {error:6.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
