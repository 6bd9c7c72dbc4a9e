"""Find the regions that a classifier uses, and those that differ by diagnosis."""

# %%
from nilearn.plotting import plot_glass_brain
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from brainfeat import BrainFoundEmbedder, simulate_cohort
from brainfeat.evaluation import decode_positions
from brainfeat.reporting import attribution, generate_report

# The simulated disease shrinks the medial temporal lobe and enlarges the ventricles.
# Localising it takes a hundred subjects or more; eight are a demonstration.
cohort = simulate_cohort("cohort", n_subjects=8, random_state=1)
paths, diagnosis = list(cohort["T1w"]), cohort["diagnosis"].to_numpy()

# %%
# The importance of a region is the loss of separation between patients and controls
# when its tokens are replaced by those of the average subject. With `cv` each subject
# is held out; without it the fitted pipeline is used.
model = make_pipeline(
    BrainFoundEmbedder(memory="cache").fit(paths),
    StandardScaler(),
    LogisticRegression(C=0.1, max_iter=1000),
)
result = attribution(model, paths, diagnosis, cv=2)
print(result.importance.head(6).round(3))

# %%
# There is one map per subject in the space of its scan, and a group map in MNI152.
# `method="integrated_gradients"` or `"occlusion"` give voxelwise maps (needs captum).
print(result.maps[0].shape, result.group_img.shape)

# %%
# A searchlight tests at which tokens the diagnosis can be decoded. Its p-values are
# corrected for the number of tokens.
dense = model[0].transform_dense(paths, space="template")
decoded = decode_positions(dense, diagnosis, n_repeats=1, n_permutations=50)
auc, p = decoded.auc_img.get_fdata(), decoded.corrected_p_img.get_fdata()
print(f"largest AUC {auc.max():.2f}, {int((p < 0.05).sum())} tokens with p < 0.05")

# %%
# A report shows inputs, outliers and scores on one page. Notebooks display its return
# value; `brainfeat report embeddings.parquet --labels participants.tsv` writes it, too.
report = generate_report(model[0], paths[:4], y=diagnosis[:4])
report.save_as_html("report.html")

# %%
# Regions that speak for the diagnosis are red, others blue.
display = plot_glass_brain(
    result.group_img, title="patients minus controls", plot_abs=False, colorbar=True
)
display.savefig("attribution.png")
