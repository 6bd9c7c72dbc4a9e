"""Features of named regions, and dense features on their exact grid."""

# %%
# A disease of the medial temporal lobe is a small part of a mean over the brain.
# Pooling by regions keeps it apart: each region gives features of its own.
import pandas as pd
from nilearn.image import index_img, resample_to_img
from nilearn.plotting import plot_stat_map

from brainfeat import BrainFoundEmbedder, simulate_cohort
from brainfeat.evaluation import evaluate_probe
from brainfeat.reporting.template_regions import template_regions

cohort = simulate_cohort("cohort", n_subjects=10, random_state=4)

# %%
# Any atlas in MNI152 space will do, in nilearn's form: `maps` and a look-up table,
# as `nilearn.datasets.fetch_atlas_...` gives them. This coarse one needs no download.
atlas = template_regions()
print(atlas["lut"].head())

embedder = BrainFoundEmbedder(pooling="regions", labels_img=atlas, memory="cache")
features = embedder.set_output(transform="pandas").fit_transform(cohort["T1w"])
print(features.shape, list(features.columns[:2]))

# %%
# Columns bear the names of their regions, so one region is a selection by name.
# Ten subjects show how it goes; they are too few to rank regions.
scores = {}
for region in ["medial_temporal_l", "ventricle_l", "anterior_superior_l"]:
    rows = features.filter(regex=f"^{region}_emb_")
    found = evaluate_probe(rows, cohort["diagnosis"], n_repeats=2, n_permutations=20)
    scores[region] = str(found.auc)
print(pd.Series(scores, name="AUC"))

# %%
# Dense features: one 4D image a subject, a voxel a token, where the encoder saw it,
# in MNI152 or, by default, in the scan's own space.
# Principal components of all brains make maps that can be looked at.
paths = list(cohort["T1w"][:2])
maps = (
    BrainFoundEmbedder()
    .fit(paths)
    .transform_dense(paths, space="template", n_components=3)
)
print(maps[0].shape, maps[0].affine.round(1).tolist())

# %%
# nilearn takes them to any other grid, and draws them.
component = resample_to_img(index_img(maps[0], 0), atlas["maps"])
display = plot_stat_map(component, title="first component")
display.savefig("component.png")
