"""Compute features of named regions, and dense features as images."""

# %%
# An effect in the medial temporal lobe is diluted in a mean over the brain. Pooling by
# regions gives each region its own features.
import pandas as pd
from nilearn.image import index_img, resample_to_img
from nilearn.plotting import plot_stat_map

from brainfeat import BrainFoundEmbedder, simulate_cohort
from brainfeat.evaluation import evaluate_probe
from brainfeat.reporting.template_regions import template_regions

cohort = simulate_cohort("cohort", n_subjects=8, random_state=1)

# %%
# Use any atlas in MNI152 space with `maps` and a look-up table, such as those of
# `nilearn.datasets.fetch_atlas_...`. This coarse atlas needs no download.
atlas = template_regions()
print(atlas["lut"].head())

embedder = BrainFoundEmbedder(pooling="regions", labels_img=atlas, memory="cache")
features = embedder.set_output(transform="pandas").fit_transform(cohort["T1w"])
print(features.shape, list(features.columns[:2]))

# %%
# Columns are named by region, so select a region by name.
# Eight subjects are too few to rank regions; this is a demonstration.
scores = {}
for region in ["medial_temporal_l", "ventricle_l", "anterior_superior_l"]:
    rows = features.filter(regex=f"^{region}_emb_")
    result = evaluate_probe(rows, cohort["diagnosis"], n_repeats=2, n_permutations=20)
    scores[region] = str(result.auc)
print(pd.Series(scores, name="AUC"))

# %%
# Dense features are one 4D image per subject, with a voxel per token, in MNI152 or, by
# default, in the space of the scan.
# The principal components over all brains can be displayed as maps.
paths = list(cohort["T1w"][:2])
maps = (
    BrainFoundEmbedder()
    .fit(paths)
    .transform_dense(paths, space="template", n_components=3)
)
print(maps[0].shape, maps[0].affine.round(1).tolist())

# %%
# nilearn resamples and plots the maps.
component = resample_to_img(index_img(maps[0], 0), atlas["maps"])
display = plot_stat_map(component, title="first component", draw_cross=False)
display.savefig("component.png")
