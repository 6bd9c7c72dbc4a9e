"""Check that decoding maps localise a disease, and that site effects are detected.

On a simulated cohort of the ROBEX anatomy with medial-temporal disease (see
`development_cohort.py`), the scores of the searchlight and the importance of regions
are compared with the structures that the disease changes, for true and for permuted
labels. On healthy subjects, a label that follows the site is evaluated.

    python examples/benchmarks/where_it_looks.py COHORT --subjects 240
"""

import argparse
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from development_cohort import robex_base
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from brainfeat import BrainFoundEmbedder
from brainfeat.evaluation import decode_positions, evaluate_probe
from brainfeat.exceptions import ConfoundingWarning
from brainfeat.reporting import attribution
from brainfeat.simulation.anatomy import BRAIN_CLASSES
from brainfeat.simulation.bases import load_base

CHANGED = ("ventricle", "medial_temporal")
N_DRAWS = 100  # of labels that follow the site
N_SAMPLES = 8  # along each edge of a token, to estimate its fraction of a structure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cohort", type=Path, help="BIDS folder with participants.tsv")
    parser.add_argument("--subjects", type=int, default=240)
    options = parser.parse_args()
    participants = pd.read_csv(options.cohort / "participants.tsv", sep="\t")
    participants = participants.head(options.subjects)
    paths = [
        str(options.cohort / name / "anat" / f"{name}_T1w.nii.gz")
        for name in participants["participant_id"]
    ]
    embedder = BrainFoundEmbedder().fit(paths)
    images = embedder.transform_dense(paths, space="template")
    labels = participants["diagnosis"].to_numpy()
    permuted = np.random.default_rng(3).permutation(labels)
    for name, y in (("true labels", labels), ("permuted labels", permuted)):
        print(f"\n{name}, {len(y)} subjects")
        print_searchlight(images, y)
        print_importance(embedder, paths, y)
    print_sites(embedder.transform(paths), participants)


def print_searchlight(images: list[nib.Nifti1Image], y: NDArray[np.int64]) -> None:
    affine = images[0].affine
    result = decode_positions(images, y)
    auc, p = result.auc_img.get_fdata(), result.corrected_p_img.get_fdata()
    fraction, brain = structure_fractions(auc.shape, affine), auc > 0
    best = np.unravel_index(auc.argmax(), auc.shape)
    peak = affine[:3, :3] @ best + affine[:3, 3]
    print(f"largest AUC {auc.max():.2f} at {peak.round().astype(int)} mm, corrected p")
    print(
        f"  {p[best]:.3f}; changed structures fill {fraction[best]:.0%} of that token"
    )
    print(f"mean AUC {auc[brain].mean():.3f}; {int((p < 0.05).sum())} tokens p < 0.05")
    changed, ranks = fraction[brain] >= 0.1, rankdata(auc[brain])
    wins = ranks[changed].sum() - changed.sum() * (changed.sum() + 1) / 2
    print(
        "probability that a token with 10% of changed structures scores above another: "
        f"{wins / (changed.sum() * (~changed).sum()):.2f}"
    )


def print_importance(
    embedder: BrainFoundEmbedder, paths: list[str], y: NDArray[np.int64]
) -> None:
    head = RidgeClassifier(alpha=embedder.n_features_out_)
    model = make_pipeline(embedder, StandardScaler(), head)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    result = attribution(model, paths, y, cv=folds)
    print(result.importance.head(6).round(3).to_string())


def print_sites(rows: NDArray[np.float32], participants: pd.DataFrame) -> None:
    is_used = (participants["diagnosis"] == 0) & participants["site"].isin(
        ["river", "summit"]
    )
    site = participants["site"][is_used].to_numpy()
    draws = np.random.default_rng(0).random((N_DRAWS, len(site))) < 0.85
    results = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfoundingWarning)  # counted below
        for follows in draws:
            y = np.where(follows, site == "river", site != "river").astype(int)
            results.append(
                evaluate_probe(
                    rows[is_used], y, site=site, n_repeats=2, n_permutations=99
                )
            )
    is_reported = ["are confounded" in " ".join(e.findings) for e in results]
    print(f"\n{len(site)} healthy subjects, {N_DRAWS} labels that follow the site")
    print(f"reported as confounded: {np.mean(is_reported):.0%}")
    for name, scores, p_values in (
        ("naive", [e.auc for e in results], [e.p_value for e in results]),
        (
            "corrected",
            [e.corrected_auc for e in results],
            [e.corrected_p_value for e in results],
        ),
    ):
        values = np.array([score.value for score in scores])
        error = values.std(ddof=1) / np.sqrt(N_DRAWS)
        fraction = np.mean(np.array(p_values) <= 0.05)
        print(
            f"{name}: AUC {values.mean():.2f} +- {error:.2f}, "
            f"p <= 0.05 in {fraction:.0%}"
        )


def structure_fractions(
    shape: tuple[int, ...], affine: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute the fraction of each token that the changed structures fill."""
    base = load_base(*robex_base())
    labels = base.labels.numpy()
    steps = (np.arange(N_SAMPLES) + 0.5) / N_SAMPLES - 0.5
    fine = [(np.arange(size)[:, None] + steps).ravel() for size in shape]
    points = np.stack(np.meshgrid(*fine, indexing="ij"), axis=-1)
    to_voxel = np.linalg.inv(base.lattice.affine) @ affine
    voxels = np.rint(points @ to_voxel[:3, :3].T + to_voxel[:3, 3]).astype(int)
    last = np.array(labels.shape) - 1
    sampled = labels[tuple(np.moveaxis(voxels.clip(0, last), -1, 0))]
    changed = [1 + BRAIN_CLASSES.index(name) for name in CHANGED]
    i, j, k = shape
    blocks = np.isin(sampled, changed).reshape(i, N_SAMPLES, j, N_SAMPLES, k, N_SAMPLES)
    return blocks.mean(axis=(1, 3, 5))


if __name__ == "__main__":
    main()
