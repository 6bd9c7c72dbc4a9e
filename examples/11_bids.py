"""Take scans and labels from a BIDS dataset with `load_bids`."""

# %%
# Any BIDS dataset will do; this one is simulated. `load_bids` gives a row per session
# and run, a column per modality, and those of participants.tsv and sessions.tsv.
import matplotlib.pyplot as plt
import numpy as np
from nilearn.image import load_img
from nilearn.plotting import plot_anat

from brainfeat import BrainFoundEmbedder, load_bids, read_volume, simulate_cohort

simulate_cohort("cohort", n_subjects=10, random_state=1)
scans = load_bids("cohort")
print(scans.drop(columns="T1w").head())

# %%
# It is a DataFrame: choose rows as in any other. `bids_filter` chooses among the images
# of a session, by a filter file of BIDS apps or its content.
elderly = scans[scans["age"] > scans["age"].median()]
print(f"{len(elderly)} of {len(scans)} participants, sites {sorted(set(elderly.site))}")

# %%
# The columns of images are the X of an estimator, and the index names its rows.
embedder = BrainFoundEmbedder(pooling="anatomy_ml", memory="cache", n_jobs=2)
volumes = embedder.set_output(transform="pandas").fit_transform(elderly[["T1w"]])
print(volumes.iloc[:, :4].round(1))

# %%
# The smallest and the largest lateral ventricles, each in its scanner's space. In a
# notebook, a volume is shown in three planes.
ventricles = volumes["emb_lateral_ventricle_left"].sort_values()
print(read_volume(elderly.loc[ventricles.index[0], "T1w"]).summary())
figure, axes = plt.subplots(2, 1, figsize=(7, 5.6))
for row, name in zip(axes, ventricles.index[[0, -1]], strict=True):
    title = f"{name}, left ventricle of {ventricles[name]:.0f} ml"
    image = load_img(elderly.loc[name, "T1w"], dtype="float32")
    look = {"draw_cross": False, "colorbar": False}
    vmax = np.percentile(image.dataobj, 99)
    plot_anat(image, axes=row, figure=figure, vmax=vmax, **look)
    row.set_title(title)
figure.savefig("bids.png", bbox_inches="tight")
