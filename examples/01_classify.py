"""Classify simulated patients and controls from T1w scans."""

# %%
# Simulate a cohort, without any download: 12 subjects, half with medial-temporal
# atrophy, on three scanners. It is written as a BIDS folder. The pictures of these
# examples need matplotlib: pip install matplotlib
import matplotlib.pyplot as plt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from brainfeat import BrainFoundEmbedder, simulate_cohort

cohort = simulate_cohort("cohort", n_subjects=12, random_state=1)
print(cohort[["T1w", "diagnosis", "age"]].head())

# %%
# The embedder is a scikit-learn transformer. `memory` caches one vector per subject
# on disk, so that the four folds below encode each scan once.
# `pooling="anatomy"` gives a few features, the estimated fraction of the brain of each
# tissue, which suits few subjects. The default has 192 features.
model = make_pipeline(
    BrainFoundEmbedder(pooling="anatomy", memory="cache", n_jobs=2),
    StandardScaler(),
    LogisticRegression(max_iter=1000),
)
folds = StratifiedKFold(4, shuffle=True, random_state=0)
scores = cross_val_score(
    model, cohort["T1w"], cohort["diagnosis"], cv=folds, scoring="roc_auc"
)
# With three subjects per fold, the score is only a demonstration.
print(f"AUC {scores.mean():.2f} +- {scores.std():.2f} over {len(scores)} folds")

# %%
# With pandas output, rows are named by subject and columns by feature.
embedder = model[0].set_output(transform="pandas")
features = embedder.fit_transform(cohort["T1w"])
print(features.iloc[:3, :5].round(3))

# %%
# Features with names can be plotted as such. The simulated disease is in both of these.
figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
for diagnosis, name in enumerate(["controls", "patients"]):
    rows = 100 * features[cohort["diagnosis"] == diagnosis]
    axes.scatter(rows["emb_ventricle"], rows["emb_medial_temporal"], label=name)
axes.set(xlabel="ventricles, % of the brain", ylabel="medial temporal lobes, %")
axes.legend()
figure.savefig("classify.png")
