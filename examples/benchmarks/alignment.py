"""How much alignment to MNI152 helps: the measurement behind the default.

Embeds one simulated cohort with each kind of alignment and prints the time per
volume and the cross-validated AUC of disease against control, with its standard
error over splits.

    python examples/benchmarks/alignment.py [N_SUBJECTS]
"""

import sys
import tempfile
import time

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from brainfeat import BrainFoundEmbedder, Preprocessor, simulate_cohort


def main(n_subjects: int = 60) -> None:
    splits = StratifiedShuffleSplit(20, train_size=2 / 3, random_state=0)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000))
    with tempfile.TemporaryDirectory() as folder:
        cohort = simulate_cohort(folder, n_subjects=n_subjects, random_state=11)
        print(f"{n_subjects} subjects, {splits.get_n_splits()} splits by subject")
        print(f"{'alignment':<10} {'s/volume':>8} {'AUC':>6} {'SE':>6}")
        for alignment in ("none", "rigid", "affine"):
            embedder = BrainFoundEmbedder(
                preprocessor=Preprocessor(alignment=alignment), n_jobs=2
            )
            start = time.perf_counter()
            features = embedder.fit_transform(cohort["T1w"])
            seconds = (time.perf_counter() - start) / n_subjects
            scores = cross_val_score(
                probe, features, cohort["diagnosis"], cv=splits, scoring="roc_auc"
            )
            error = scores.std(ddof=1) / np.sqrt(len(scores))
            print(f"{alignment:<10} {seconds:8.2f} {scores.mean():6.3f} {error:6.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
