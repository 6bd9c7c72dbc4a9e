"""Volumes of named structures in ml, without a segmentation and without labels."""

# %%
# The encoder was trained to tell how much of each structure a patch holds. Their sums
# are volumes: a number per structure, but no label map. For maps see 06_segment.py.
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
from nilearn.image import load_img
from nilearn.plotting import plot_anat

from brainfeat import BrainFoundEmbedder, Checkpoint, simulate_cohort

cohort = simulate_cohort("cohort", n_subjects=12, random_state=1)
checkpoint = Checkpoint.load("brainfound-tiny")
print(checkpoint)
print(", ".join(checkpoint.config.encoder.structures[:8]), "and others")

# %%
# `pooling="anatomy"` gives fractions of the brain in place of ml.
embedder = BrainFoundEmbedder(pooling="anatomy_ml", memory="cache", n_jobs=2)
volumes = embedder.set_output(transform="pandas").fit_transform(cohort["T1w"])
volumes.columns = volumes.columns.str.removeprefix("emb_")
print(volumes[["ventricle", "hippocampus_left", "hippocampus_right"]].head().round(2))

# %%
# Left and right, as a check: a difference of more than a tenth deserves a look.
left, right = volumes["hippocampus_left"], volumes["hippocampus_right"]
asymmetry = (left - right) / (left + right)
print("asymmetric:", ", ".join(asymmetry.index[asymmetry.abs() > 0.1]) or "none")

# %%
# The simulation knows the true volumes. The encoder learnt from other heads of it, and
# from scans of people.
table = pd.read_table("cohort/derivatives/simulation/dseg.tsv", index_col="name")
true = pd.DataFrame(index=volumes.index, columns=["ventricle", "medial_temporal"])
for name, path in cohort["dseg"].items():
    image = nib.load(path)
    counts = np.bincount(image.get_fdata().astype(int).ravel(), minlength=10)
    voxel = np.prod(image.header.get_zooms()) / 1000  # ml
    true.loc[name] = [counts[table.loc[s, "index"]] * voxel for s in true]

# %%
# One of the scans, and the volumes of all.
figure = plt.figure(figsize=(9, 5.6))
shown, *panels = figure.subplot_mosaic("AA;BC", height_ratios=[1, 1.3]).values()
scan = load_img(cohort["T1w"].iloc[0], dtype="float32")
look = {"draw_cross": False, "colorbar": False, "vmax": np.percentile(scan.dataobj, 99)}
plot_anat(scan, axes=shown, figure=figure, **look)
for axes, structure in zip(panels, true, strict=True):
    for diagnosis, group in enumerate(["controls", "patients"]):
        rows = cohort["diagnosis"] == diagnosis
        axes.scatter(
            true.loc[rows, structure], volumes.loc[rows, structure], label=group
        )
    axes.axline((true[structure].mean(),) * 2, slope=1, linestyle="--", color="gray")
    title = structure.replace("_", " ")
    axes.set(title=title, xlabel="true volume, ml", ylabel="from the encoder, ml")
panels[0].legend()
figure.savefig("anatomy.png", bbox_inches="tight")
