"""T1w, T2w and FLAIR together, with some of them missing."""

# %%
# White-matter lesions are bright on FLAIR. Each subject has three scans of one
# anatomy; a DataFrame holds a row a subject and a column a modality.
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from brainfeat import BrainFoundEmbedder, simulate_cohort

modalities = ["T1w", "T2w", "FLAIR"]
cohort = simulate_cohort("cohort", n_subjects=8, modalities=modalities, random_state=2)
images = cohort[modalities].copy()

# %%
# In real cohorts not everyone has every scan. None is a missing modality: the
# encoder has learnt a vector that stands for it, nothing is imputed.
images.loc[images.index[::3], "FLAIR"] = None
images.loc[images.index[1::4], "T2w"] = None
print(images.notna().sum())

# %%
embedder = BrainFoundEmbedder(memory="cache", n_jobs=2)
features = embedder.set_output(transform="pandas").fit_transform(images)
print(features.shape, features.index.equals(images.index))

# %%
# Scans beside other variables: one transformer a group of columns.
table = images.assign(age=cohort["age"])
columns = make_column_transformer(
    (BrainFoundEmbedder(memory="cache"), modalities),
    (StandardScaler(), ["age"]),
)
model = make_pipeline(columns, StandardScaler(), LogisticRegression(max_iter=1000))
scores = cross_val_score(model, table, cohort["diagnosis"], cv=2)
print(f"accuracy {scores.mean():.2f} +- {scores.std():.2f}")
