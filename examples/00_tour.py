"""A tour for a notebook: what each result shows of itself.

Open this file in VS Code or PyCharm, which run its cells, or convert it:

    pip install jupyterlab jupytext matplotlib
    jupytext --to notebook 00_tour.py
"""

# %%
# Eight simulated people, half of them with atrophy of the medial temporal lobe.
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np

from brainfeat import BrainFoundEmbedder, Checkpoint, read_volume, simulate_cohort
from brainfeat.evaluation import evaluate_probe, evaluate_reliability
from brainfeat.reporting import generate_report

cohort = simulate_cohort("cohort", n_subjects=8, random_state=1)
scans, diagnosis = cohort["T1w"], cohort["diagnosis"]
cohort[["diagnosis", "age", "sex", "site"]].head()

# %%
# A volume shows three planes. `summary()` gives the text beside them.
read_volume(scans.iloc[0])

# %%
# The encoder: what it takes, what it gives, its licence.
Checkpoint.load("brainfound-tiny")

# %%
# The estimator is shown by scikit-learn: open "Parameters", and point at a name.
settings = {"modality": "T1w", "memory": "cache", "n_jobs": 2, "verbose": 1}
embedder = BrainFoundEmbedder(pooling="anatomy", **settings)
embedder.set_output(transform="pandas").fit(scans)

# %%
# With `verbose=1` a bar shows the progress, in a notebook and on a terminal.
features = embedder.transform(scans)
features.iloc[:3, :5].round(4)

# %%
# How well is the diagnosis read from the features? Eight people are a demonstration.
confounds = cohort[["age", "sex"]]
evaluate_probe(features, diagnosis, confounds=confounds, n_permutations=20)


# %%
# How well do two scans of a person agree? Here the second is the first with noise.
def add_noise(path: str) -> nib.Nifti1Image:
    image = nib.load(path)
    voxels = image.get_fdata(dtype=np.float32)
    noise = np.random.default_rng(0).normal(0, 0.03 * voxels.max(), voxels.shape)
    return nib.Nifti1Image(voxels + noise.astype(np.float32), image.affine)


again = embedder.transform([add_noise(path) for path in scans[:4]])
people = [*features.index[:4], *features.index[:4]]
evaluate_reliability(np.vstack([features[:4], again]), people)

# %%
# Any feature as a picture. (Which regions speak for the diagnosis: 05_attribution.py.)
features.assign(patient=diagnosis.to_numpy()).boxplot(
    ["emb_medial_temporal", "emb_ventricle"], by="patient", figsize=(6, 3)
)
plt.suptitle("")
plt.savefig("tour.png", bbox_inches="tight")

# %%
# A page on inputs and outliers, and with labels on scores.
generate_report(embedder, scans[:4])
