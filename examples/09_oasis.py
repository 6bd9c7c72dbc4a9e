"""Evaluate the features of a public cohort: OASIS, through nilearn's fetcher.

python 09_oasis.py          a simulated cohort, no download
python 09_oasis.py oasis    OASIS, 1 GB once (https://sites.wustl.edu/oasisbrains)
"""

# %%
# Only this cell is specific to the cohort. nilearn provides grey matter maps in MNI152
# space, not T1w scans, which are an unseen contrast for the encoder. With your own
# scans the first column has their paths.
import sys

import matplotlib.pyplot as plt
import pandas as pd
from nilearn.datasets import fetch_oasis_vbm

from brainfeat import BrainFoundEmbedder, simulate_cohort
from brainfeat.evaluation import cohort_distances, evaluate_probe

if "oasis" in sys.argv[1:]:
    oasis = fetch_oasis_vbm(n_subjects=100)
    cohort = pd.DataFrame(
        {
            "T1w": oasis.gray_matter_maps,
            "diagnosis": (oasis.ext_vars["cdr"].fillna(0) > 0).to_numpy().astype(int),
            "age": oasis.ext_vars["age"].to_numpy(),
            "sex": oasis.ext_vars["mf"].to_numpy(),
        }
    )
else:
    cohort = simulate_cohort("cohort", n_subjects=12, random_state=1)

# %%
embedder = BrainFoundEmbedder(memory="cache", n_jobs=2)
features = embedder.fit_transform(cohort["T1w"])

# %%
# Patients with dementia are older, and age affects every brain. The summary therefore
# has three scores: of the features, of age and sex alone, and corrected for these.
result = evaluate_probe(
    features,
    cohort["diagnosis"],
    confounds=cohort[["age", "sex"]],
    n_permutations=100,
)
print(result.summary())

# %%
# Inspect scans that differ from the cohort before using them.
distances = cohort_distances(features)
atypical = cohort["T1w"][distances.is_outlier]
print(f"{len(atypical)} outliers", *atypical, sep="\n")

# %%
# Features should predict the diagnosis better than age and sex do. Twelve subjects are
# too few to tell, as the errors say.
scores = {
    "features": result.auc,
    "age and sex alone": result.confound_auc,
    "features, corrected": result.corrected_auc,
}
figure, axes = plt.subplots(figsize=(5, 2), layout="constrained")
for name, score in reversed(scores.items()):
    axes.errorbar(score.value, name, xerr=score.standard_error, fmt="s", color="C0")
axes.axvline(0.5, linestyle="--", color="gray")
axes.set(xlabel="AUC and its standard error", ylim=(-0.5, 2.5))
figure.savefig("oasis.png")
