"""Which embedding predicts your labels best? Compare them on the same subjects."""

# %%
# Two embeddings of a simulated cohort by the bundled encoder, and one of noise. Any
# table of `brainfeat embed` can take part: from the command line, this script is
#
#   brainfeat compare mean.parquet anatomy.parquet --labels participants.tsv
import matplotlib.pyplot as plt
import numpy as np

from brainfeat import BrainFoundEmbedder, simulate_cohort
from brainfeat.evaluation import compare_embeddings

cohort = simulate_cohort("cohort", n_subjects=12, random_state=1)
embeddings = {
    pooling: BrainFoundEmbedder(pooling=pooling, memory="cache").fit_transform(
        cohort[["T1w"]]
    )
    for pooling in ("mean", "anatomy")
}
embeddings["noise"] = np.random.default_rng(0).normal(size=(12, 16))

# %%
# The same rows, the same folds by subject, intervals over subjects. Differences are
# paired: an interval may exclude zero although those of the two scores overlap.
# Twelve subjects tell no embedding from another, nor from noise: look at the widths.
result = compare_embeddings(
    embeddings, cohort["diagnosis"].to_numpy(), site=cohort["site"].to_numpy()
)
print(result.summary())
print(result.differences.round(3).to_string(index=False))
print(result.site.round(2).to_string(index=False))

# %%
# A number, such as age, is compared in the same way.
ages = compare_embeddings(embeddings, cohort["age"].to_numpy(), task="numbers")
print(ages.summary())

# %%
# The forest plot of a paper.
scores = result.select(result.scores, metric="AUC")
below, above = scores["value"] - scores["low"], scores["high"] - scores["value"]
figure, axes = plt.subplots(figsize=(6, 2))
axes.errorbar(scores["value"], scores["embedding"], xerr=[below, above], fmt="s")
axes.axvline(result.chance["AUC"], linestyle="--", color="gray")
axes.margins(y=0.2)
axes.set_xlabel("AUC, 95 % interval over subjects")
figure.savefig("compare.png", bbox_inches="tight")
