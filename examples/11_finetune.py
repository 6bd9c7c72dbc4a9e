"""Adapt the encoder to your label: from a linear probe to a fine-tuned model."""

# %%
# A simulated cohort of patients and controls. From the command line, this script is
#
#   brainfeat finetune cohort -o model --label-column diagnosis
#   brainfeat predict model cohort -o predictions.csv
import matplotlib.pyplot as plt
import numpy as np

from brainfeat import BrainFoundClassifier, simulate_cohort

cohort = simulate_cohort("cohort", n_subjects=16, random_state=1)
train, new = cohort.iloc[:12], cohort.iloc[12:]

# %%
# Training starts from a linear probe of the frozen encoder. People who are held out
# choose the number of steps: 0, the probe itself, where labels are too few for more.
model = BrainFoundClassifier(n_steps=6, batch_size=4, random_state=0)
model.fit(train[["T1w"]], train["diagnosis"])
print(f"AUC of held-out people: {model.held_out_score_:.2f}")
print(f"of the linear probe:    {model.probe_score_:.2f}")
print(f"steps: {model.n_steps_}")

# %%
# The folder holds what was trained, and names the encoder that it belongs to.
folder = model.save("model")
size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
print(f"{size:.2f} MB: {sorted(path.name for path in folder.iterdir())}")
model = BrainFoundClassifier.load(folder)

# %%
# Probabilities of new scans, and how many were right.
probabilities = model.predict_proba(new[["T1w"]])[:, 1]
right = np.mean((probabilities > 0.5) == (new["diagnosis"] == 1))
print(f"{right:.0%} of {len(new)} new scans")

# %%
# People who were held out, and new ones, by severity.
figure, axes = plt.subplots(figsize=(5, 3))
axes.scatter(train["severity"], model.held_out_proba_[:, 1], label="held out")
axes.scatter(new["severity"], probabilities, marker="s", label="new")
axes.set(xlabel="severity", ylabel="probability of disease", ylim=(0, 1))
axes.legend()
figure.savefig("finetune.png", bbox_inches="tight")
