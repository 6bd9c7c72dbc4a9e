"""Predict age from T1w scans, and correct its bias towards the mean."""

# %%
# Twelve subjects show how it is done. They are far too few for a brain age: the error
# is about that of a guess.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.metrics import mean_absolute_error
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from brainfeat import BrainFoundEmbedder, simulate_cohort

cohort = simulate_cohort("cohort", n_subjects=12, random_state=1)
age = cohort["age"].to_numpy(float)

# %%
# Fractions of the brain have names, and suit few subjects. With repeat scans of a
# subject, use `GroupKFold` and `groups=`, so that no subject is on both sides.
model = make_pipeline(
    BrainFoundEmbedder(pooling="anatomy", memory="cache", n_jobs=2),
    StandardScaler(),
    RidgeCV(alphas=np.logspace(0, 4, 9)),
)
folds = KFold(6, shuffle=True, random_state=0)
predicted = cross_val_predict(model, cohort["T1w"], age, cv=folds)

# %%
# Compare with a guess: the mean age of the other subjects.
error = mean_absolute_error(age, predicted)
guess = np.abs(age - (age.sum() - age) / (len(age) - 1)).mean()
print(f"mean absolute error {error:.1f} years, {guess:.1f} for the mean age")

# %%
# Predictions shrink towards the mean: the young seem older and the old younger. The
# gap to age therefore depends on age. A line through the gaps of the *other* subjects
# removes that; what is left can be related to other variables.
gap = predicted - age
line = cross_val_predict(LinearRegression(), age[:, None], gap, cv=folds)
for name, values in {"gap": gap, "corrected gap": gap - line}.items():
    print(f"{name}: r with age {np.corrcoef(age, values)[0, 1]:+.2f}")

# %%
figure, axes = plt.subplots(figsize=(5, 4.5), layout="constrained")
for diagnosis, name in enumerate(["controls", "patients"]):
    rows = cohort["diagnosis"] == diagnosis
    axes.scatter(age[rows], predicted[rows], label=name)
axes.axline((age.mean(), age.mean()), slope=1, linestyle="--", color="gray")
axes.set(xlabel="age, years", ylabel="predicted age, held out")
axes.legend()
figure.savefig("age.png")
