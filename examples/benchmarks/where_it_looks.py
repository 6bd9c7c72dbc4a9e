"""Is the disease found where it is, and a site told from a disease?

On a simulated cohort of the ROBEX anatomy with medial-temporal disease (see
`development_cohort.py`): the searchlight's scores and the importance of regions, for
true and for shuffled labels, against the structures that the disease changes; and, on
its healthy subjects, a label that follows the site.

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
N_SAMPLES = 8  # along each edge of a token, to find its share of a structure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cohort", type=Path, help="BIDS folder with participants.tsv")
    parser.add_argument("--subjects", type=int, default=240)
    options = parser.parse_args()
    people = pd.read_csv(options.cohort / "participants.tsv", sep="\t")
    people = people.head(options.subjects)
    paths = [
        str(options.cohort / name / "anat" / f"{name}_T1w.nii.gz")
        for name in people["participant_id"]
    ]
    embedder = BrainFoundEmbedder().fit(paths)
    images = embedder.transform_dense(paths, space="template")
    labels = people["diagnosis"].to_numpy()
    shuffled = np.random.default_rng(3).permutation(labels)
    for name, y in (("true labels", labels), ("shuffled labels", shuffled)):
        print(f"\n{name}, {len(y)} subjects")
        print_searchlight(images, y)
        print_importance(embedder, paths, y)
    print_sites(embedder.transform(paths), people)


def print_searchlight(images: list[nib.Nifti1Image], y: NDArray[np.int64]) -> None:
    affine = images[0].affine
    found = decode_positions(images, y)
    auc, p = found.auc_img.get_fdata(), found.corrected_p_img.get_fdata()
    share, brain = structure_shares(auc.shape, affine), auc > 0
    best = np.unravel_index(auc.argmax(), auc.shape)
    place = affine[:3, :3] @ best + affine[:3, 3]
    print(f"largest AUC {auc.max():.2f} at {place.round().astype(int)} mm, corrected p")
    print(f"  {p[best]:.3f}; changed structures fill {share[best]:.0%} of that token")
    print(f"mean AUC {auc[brain].mean():.3f}; {int((p < 0.05).sum())} tokens p < 0.05")
    changed, ranks = share[brain] >= 0.1, rankdata(auc[brain])
    wins = ranks[changed].sum() - changed.sum() * (changed.sum() + 1) / 2
    print(
        "chance that a token with a tenth of changed structure scores above another: "
        f"{wins / (changed.sum() * (~changed).sum()):.2f}"
    )


def print_importance(
    embedder: BrainFoundEmbedder, paths: list[str], y: NDArray[np.int64]
) -> None:
    head = RidgeClassifier(alpha=embedder.n_features_out_)
    model = make_pipeline(embedder, StandardScaler(), head)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    found = attribution(model, paths, y, cv=folds)
    print(found.importance.head(6).round(3).to_string())


def print_sites(rows: NDArray[np.float32], people: pd.DataFrame) -> None:
    chosen = (people["diagnosis"] == 0) & people["site"].isin(["river", "summit"])
    site = people["site"][chosen].to_numpy()
    draws = np.random.default_rng(0).random((N_DRAWS, len(site))) < 0.85
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfoundingWarning)  # counted below
        for follows in draws:
            y = np.where(follows, site == "river", site != "river").astype(int)
            found.append(
                evaluate_probe(
                    rows[chosen], y, site=site, n_repeats=2, n_permutations=99
                )
            )
    told = np.mean(["are confounded" in " ".join(e.findings) for e in found])
    print(f"\n{len(site)} healthy subjects, {N_DRAWS} labels that follow the site")
    print(f"said to be confounded: {told:.0%}")
    for name, scores, p_values in (
        ("naive", [e.auc for e in found], [e.p_value for e in found]),
        (
            "corrected",
            [e.corrected_auc for e in found],
            [e.corrected_p_value for e in found],
        ),
    ):
        values = np.array([score.value for score in scores])
        error = values.std(ddof=1) / np.sqrt(N_DRAWS)
        share = np.mean(np.array(p_values) <= 0.05)
        print(
            f"{name}: AUC {values.mean():.2f} +- {error:.2f}, p <= 0.05 in {share:.0%}"
        )


def structure_shares(
    shape: tuple[int, ...], affine: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute the share of each token that the changed structures fill."""
    base = load_base(*robex_base())
    labels = base.labels.numpy()
    steps = (np.arange(N_SAMPLES) + 0.5) / N_SAMPLES - 0.5
    fine = [(np.arange(size)[:, None] + steps).ravel() for size in shape]
    places = np.stack(np.meshgrid(*fine, indexing="ij"), axis=-1)
    to_voxel = np.linalg.inv(base.lattice.affine) @ affine
    voxels = np.rint(places @ to_voxel[:3, :3].T + to_voxel[:3, 3]).astype(int)
    last = np.array(labels.shape) - 1
    found = labels[tuple(np.moveaxis(voxels.clip(0, last), -1, 0))]
    wanted = [1 + BRAIN_CLASSES.index(name) for name in CHANGED]
    i, j, k = shape
    blocks = np.isin(found, wanted).reshape(i, N_SAMPLES, j, N_SAMPLES, k, N_SAMPLES)
    return blocks.mean(axis=(1, 3, 5))


if __name__ == "__main__":
    main()
