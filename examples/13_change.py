"""Measure change within subjects between two visits, and what of it is noise."""

# %%
# Two visits of four simulated people, four years apart: all are healthy at the first,
# two of them have atrophy of the medial temporal lobe at the second.
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd

from brainfeat import BrainFoundEmbedder, simulate_cohort
from brainfeat.evaluation import longitudinal_change

first = simulate_cohort("before", 4, disease=0.0, labels=False, random_state=1)
second = simulate_cohort("cohort", n_subjects=4, random_state=1)
second["age"] += 4.0


# %%
# Without repeats of a visit nobody knows how much of a change is noise. Here a repeat
# is a scan with other noise; real ones also differ in position and scanner.
def scan_again(path: str, seed: int) -> nib.Nifti1Image:
    image = nib.load(path)
    voxels = image.get_fdata(dtype=np.float32)
    noise = np.random.default_rng(seed).normal(0, 0.02 * voxels.max(), voxels.shape)
    return nib.Nifti1Image(voxels + noise.astype(np.float32), image.affine)


visits = {"first": first, "repeat": first[:3], "second": second}
rows = pd.concat(visits, names=["visit"]).reset_index("visit")
scans = [
    scan_again(path, seed) if visit != "first" else path
    for seed, (visit, path) in enumerate(zip(rows["visit"], rows["T1w"], strict=True))
]

# %%
# One row a scan: who, when, and volumes in ml. A repeat has the session of its visit.
embedder = BrainFoundEmbedder(pooling="anatomy_ml", modality="T1w", n_jobs=2)
table = rows[["participant_id", "age", "diagnosis"]].reset_index(drop=True)
table["session_id"] = rows["visit"].replace("repeat", "first").to_numpy()
volumes = embedder.fit_transform(scans)
table[embedder.get_feature_names_out()] = volumes

# %%
# Slopes per year, with the noise of one scan; and for each subject, whether its change
# is more than noise.
columns = ["emb_ventricle", "emb_medial_temporal"]
result = longitudinal_change(table, columns)
print(result.summary())
print(result.subjects.round(2).to_string(index=False))

# %%
# A line a subject. Where it is steeper than the noise allows, its end is filled.
figure, panels = plt.subplots(1, 2, figsize=(8, 3.5), layout="constrained")
reliable = result.subjects.set_index(["subject", "column"])["is_reliable"]
for axes, column in zip(panels, columns, strict=True):
    for subject, scanned in table.groupby("participant_id"):
        color = "C1" if scanned["diagnosis"].max() == 1 else "C0"
        fill = color if reliable[subject, column] else "white"
        line = scanned.sort_values("age")
        axes.plot(line["age"], line[column], "o-", color=color, mfc=fill, alpha=0.8)
    axes.set(xlabel="age, years", ylabel="ml", title=column.removeprefix("emb_"))
for color, name in (("C0", "healthy"), ("C1", "becomes ill")):
    panels[0].plot([], [], "o-", color=color, label=name)
panels[0].legend()
figure.savefig("change.png")
