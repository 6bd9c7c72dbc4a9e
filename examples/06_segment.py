"""Train a segmentation model on two labelled scans and apply it."""

# %%
# Replace these simulated subjects by your own T1w images and label maps. Labels are
# any integers, on any grid that is aligned with the image.
import nibabel as nib
import numpy as np
from nilearn.plotting import plot_roi

from brainfeat import SegmentationEstimator, simulate_cohort

cohort = simulate_cohort("cohort", n_subjects=3, random_state=1)
scans, label_maps = cohort["T1w"].tolist(), cohort["dseg"].tolist()

# %%
# The estimator trains a light decoder on the tokens of the pretrained encoder. The
# default number of steps takes minutes on a CPU; four steps are a demonstration.
model = SegmentationEstimator(n_steps=4, random_state=0, verbose=1)
model.fit(scans[:2], label_maps[:2])
print("classes:", model.names_)
print("Dice of subjects that were held out:", round(model.held_out_score_, 2))

# %%
# Predicted label maps have the grid on which the labels were drawn, in any orientation.
(segmented,) = model.predict(scans[2:])
image = nib.load(scans[2])
print(segmented.shape == image.shape, np.allclose(segmented.affine, image.affine))

# %%
# Volumes in millilitres, and the quality of each scan.
print(model.volumes(scans[2:]).round(2).T.to_string())

# %%
# Dice per class; `model.score` is the mean over classes and subjects.
print(model.score_table(scans[2:], label_maps[2:]).round(2).to_string())

# %%
# Save the model as a folder, which `brainfeat segment predict` also reads.
model.save("tissue-model")
loaded = SegmentationEstimator.load("tissue-model")
print(loaded.modalities_, loaded.classes_)

# %%
# Label map and image share their space, so nilearn can overlay them.
display = plot_roi(segmented, bg_img=image, cmap="tab10", alpha=0.6, colorbar=False)
display.savefig("segmented.png")
