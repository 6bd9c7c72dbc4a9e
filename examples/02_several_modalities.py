"""Embed T1w, T2w and FLAIR scans together, with some of them missing."""

# %%
# Each subject has three scans of one anatomy. The DataFrame has a row per subject and
# a column per modality.
import matplotlib.pyplot as plt
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from brainfeat import BrainFoundEmbedder, simulate_cohort

modalities = ["T1w", "T2w", "FLAIR"]
cohort = simulate_cohort("contrasts", 6, modalities=modalities, random_state=2)
images = cohort[modalities].copy()

# %%
# None is a missing modality. Nothing is imputed: the encoder has a learned vector for
# each absent modality.
images.loc[images.index[::3], "FLAIR"] = None
images.loc[images.index[1::4], "T2w"] = None
print(images.notna().sum())

# %%
embedder = BrainFoundEmbedder(memory="cache", n_jobs=2)
features = embedder.set_output(transform="pandas").fit_transform(images)
print(features.shape, features.index.equals(images.index))

# %%
# Combine scans with other variables: one transformer per group of columns.
table = images.assign(age=cohort["age"])
columns = make_column_transformer(
    (BrainFoundEmbedder(memory="cache"), modalities),
    (StandardScaler(), ["age"]),
)
model = make_pipeline(columns, StandardScaler(), LogisticRegression(max_iter=1000))
scores = cross_val_score(model, table, cohort["diagnosis"], cv=2)
print(f"accuracy {scores.mean():.2f} +- {scores.std():.2f}")

# %%
# Look at the embeddings before using them: subjects that lack a scan should not lie
# apart from the others.
missing = images.isna().apply(lambda row: ", ".join(row.index[row]) or "none", axis=1)
points = PCA(2).fit_transform(StandardScaler().fit_transform(features))
figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
for name in sorted(missing.unique()):
    x, y = points[missing == name].T
    axes.scatter(x, y, label=name)
axes.set(xlabel="first component", ylabel="second component")
axes.legend(title="missing")
figure.savefig("modalities.png")
