"""Cross-validate with all scans of a subject on one side of each split."""

# %%
# Each subject has two visits, that is, two similar rows of X. Splitting by row would
# put the same subject into training and test set.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from brainfeat import BrainFoundEmbedder, simulate_cohort

cohort = simulate_cohort("cohort", n_subjects=12, random_state=1)
paths = [*cohort["T1w"], *cohort["T1w"]]
diagnosis = np.tile(cohort["diagnosis"], 2)
subjects = np.tile(np.arange(len(cohort)), 2)

# %%
# Pooling and penalty are selected within each outer fold (nested cross-validation).
# Both loops are grouped by subject.
model = make_pipeline(
    BrainFoundEmbedder(memory="cache", n_jobs=2),
    StandardScaler(),
    LogisticRegression(max_iter=1000),
)
grid = {
    "brainfoundembedder__pooling": ["mean", "anatomy"],
    "logisticregression__C": [0.01, 1.0],
}
search = GridSearchCV(model, grid, cv=StratifiedGroupKFold(2))

# %%
# scikit-learn passes the groups to the inner loop through `fit`.
outer = StratifiedGroupKFold(3, shuffle=True, random_state=0)
scores = []
for train, test in outer.split(paths, diagnosis, subjects):
    search.fit([paths[i] for i in train], diagnosis[train], groups=subjects[train])
    scores.append(search.score([paths[i] for i in test], diagnosis[test]))
print(f"grouped by subject: accuracy {np.mean(scores):.2f} +- {np.std(scores):.2f}")

# %%
# For comparison, the biased score of a split by visit.
leaky = cross_val_score(model, paths, diagnosis, cv=4)
print(f"split by scan: accuracy {leaky.mean():.2f}, too optimistic")

# %%
# The same model and the same scans: only the splits differ.
figure, axes = plt.subplots(figsize=(5, 1.8), layout="constrained")
for name, values in {"by scan (biased)": leaky, "by subject": scores}.items():
    axes.barh(name, np.mean(values), xerr=np.std(values), alpha=0.7)
axes.axvline(0.5, linestyle="--", color="gray")
axes.set(xlabel="accuracy, mean and standard deviation over folds", xlim=(0, 1.05))
figure.savefig("leakage.png")
