"""The same lines for a public cohort: OASIS, through nilearn's fetcher.

python 09_oasis.py          a simulated cohort, no download
python 09_oasis.py oasis    OASIS, 1 GB once (https://sites.wustl.edu/oasisbrains)
"""

# %%
# Only this cell differs. nilearn's OASIS holds grey matter maps in MNI152 space, not
# the scans they come from: the encoder, which learnt T1w, takes them for a contrast
# that it has not seen. With T1w scans of your own the first column is their paths.
import sys

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
    cohort = simulate_cohort("cohort", n_subjects=12, random_state=9)

# %%
embedder = BrainFoundEmbedder(memory="cache", n_jobs=2)
features = embedder.fit_transform(cohort["T1w"])

# %%
# Demented people are older, and age shows in every brain. So the score is given
# three times: of the features, of age and sex alone, and corrected for these.
found = evaluate_probe(
    features,
    cohort["diagnosis"],
    confounds=cohort[["age", "sex"]],
    n_permutations=100,
)
print(found.summary())

# %%
# Scans that are unlike the cohort deserve a look before they are believed.
distances = cohort_distances(features)
unlike = cohort["T1w"][distances.is_outlier]
print(f"{len(unlike)} outliers", *unlike, sep="\n")
