"""Where does the classifier look, and where can the disease be read?"""

# %%
from nilearn.plotting import plot_glass_brain
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from brainfeat import BrainFoundEmbedder, simulate_cohort
from brainfeat.evaluation import decode_positions
from brainfeat.reporting import attribution, generate_report

# The simulated disease shrinks the medial temporal lobe and widens the ventricles.
# Ten subjects show how it goes; a hundred and more show where it is.
cohort = simulate_cohort("cohort", n_subjects=10, random_state=5)
paths, diagnosis = list(cohort["T1w"]), cohort["diagnosis"].to_numpy()

# %%
# Importance: how much closer the decisions on patients and controls come when the
# tokens of a region are replaced by those of the average subject. With `cv` each
# subject is held out; without it the pipeline is taken as it was fitted.
model = make_pipeline(
    BrainFoundEmbedder(memory="cache").fit(paths),
    StandardScaler(),
    LogisticRegression(C=0.1, max_iter=1000),
)
found = attribution(model, paths, diagnosis, cv=2)
print(found.importance.head(6).round(3))

# %%
# A map a subject in the scan's own space, and one of the group in MNI152. With
# `method="integrated_gradients"` or `"occlusion"` maps are of voxels (needs captum).
print(found.maps[0].shape, found.group_img.shape)
display = plot_glass_brain(found.group_img, title="patients less controls")
display.savefig("attribution.png")

# %%
# The other question: at which tokens can the disease be read at all? A searchlight
# over dense features, with p-values that are corrected for the number of tokens.
dense = model[0].transform_dense(paths, space="template")
decoded = decode_positions(dense, diagnosis, n_repeats=1, n_permutations=50)
auc, p = decoded.auc_img.get_fdata(), decoded.corrected_p_img.get_fdata()
print(f"largest AUC {auc.max():.2f}, {int((p < 0.05).sum())} tokens with p < 0.05")

# %%
# All of it on one page, with inputs, outliers and scores: in a notebook
# `generate_report(embedder, y=diagnosis)` shows it, on the command line
# `brainfeat report embeddings.parquet --labels participants.tsv` writes it.
report = generate_report(model[0], paths[:4], y=diagnosis[:4])
report.save_as_html("report.html")
